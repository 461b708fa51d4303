//! Fetches manifests, blobs and signatures from a registry or an OCI layout folder.
