//! Swaps TLS files while running. The last good set stays in force; a bad one is counted and said once.
//!
//! It watches the *folders*: a watch on a file dies silently at the first atomic rename, and Kubernetes
//! swaps a link above the files. Events only make it faster; a timer reads the files again anyway.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::{Contents, TlsError, TlsFiles, client_config, server_config};
use crate::shutdown::Stop;

/// A lost event costs at most this.
const REREAD_EVERY: Duration = Duration::from_secs(30);

/// A rotation writes three files: let it finish before we look.
const SETTLE: Duration = Duration::from_millis(100);

/// What has happened to the files since the start.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    not_after: AtomicU64,
}

impl Reloads {
    /// Sets of files that were taken into force after the start.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Sets of files that were refused.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Until when the certificate in force is valid, in Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.not_after.load(Ordering::Relaxed)
    }
}

/// One side's TLS configuration, as the files last gave a good one.
pub struct Reloading<C> {
    files: TlsFiles,
    build: fn(&TlsFiles, &Contents) -> Result<C, TlsError>,
    current: ArcSwap<C>,
    reloads: Reloads,
}

impl Reloading<ServerConfig> {
    /// The listening side. Files that are bad at the start are refused.
    pub fn server(files: TlsFiles) -> Result<(Arc<Self>, Watch<ServerConfig>), TlsError> {
        Self::load(files, server_config)
    }
}

impl Reloading<ClientConfig> {
    /// The dialling side. Files that are bad at the start are refused.
    pub fn client(files: TlsFiles) -> Result<(Arc<Self>, Watch<ClientConfig>), TlsError> {
        Self::load(files, client_config)
    }
}

impl<C> Reloading<C> {
    fn load(
        files: TlsFiles,
        build: fn(&TlsFiles, &Contents) -> Result<C, TlsError>,
    ) -> Result<(Arc<Self>, Watch<C>), TlsError> {
        let contents = files.read()?;
        let current = ArcSwap::from_pointee(build(&files, &contents)?);
        let reloads = Reloads::default();
        reloads
            .not_after
            .store(files.not_after(&contents)?, Ordering::Relaxed);
        let reloading = Arc::new(Self {
            files,
            build,
            current,
            reloads,
        });
        let watch = Watch {
            reloading: Arc::clone(&reloading),
            seen: Some(contents),
        };
        Ok((reloading, watch))
    }

    /// The configuration in force. Take it anew for each connection.
    pub fn current(&self) -> Arc<C> {
        self.current.load_full()
    }

    /// The files that it comes from.
    pub const fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// What has happened to the files.
    pub const fn reloads(&self) -> &Reloads {
        &self.reloads
    }
}

/// The task that follows the files.
pub struct Watch<C> {
    reloading: Arc<Reloading<C>>,
    /// What was judged last, good or bad: `None` when it could not be read.
    seen: Option<Contents>,
}

impl<C: Send + Sync + 'static> Watch<C> {
    /// Follows the files until `stop` turns true.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), std::convert::Infallible> {
        let (hint, mut hints) = mpsc::channel(1);
        let _watcher = watch_folders(&self.reloading.files, hint);
        let mut timer = tokio::time::interval(REREAD_EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return Ok(()),
                Some(()) = hints.recv() => tokio::time::sleep(SETTLE).await,
                _ = timer.tick() => {}
            }
            self.look();
        }
    }

    /// Reads the files and takes them into force if they are new and good.
    fn look(&mut self) {
        let files = &self.reloading.files;
        let contents = match files.read() {
            Ok(contents) => contents,
            // Said once: the timer comes every 30 s, and a missing file stays missing.
            Err(error) => return self.refuse(None, &error),
        };
        if self.seen.as_ref() == Some(&contents) {
            return;
        }
        let built = (self.reloading.build)(files, &contents)
            .and_then(|config| Ok((config, files.not_after(&contents)?)));
        match built {
            Ok((config, not_after)) => {
                self.reloading.current.store(Arc::new(config));
                let reloads = &self.reloading.reloads;
                reloads.not_after.store(not_after, Ordering::Relaxed);
                reloads.succeeded.fetch_add(1, Ordering::Relaxed);
                tracing::info!("TLS files replaced.");
                self.seen = Some(contents);
            }
            Err(error) => self.refuse(Some(contents), &error),
        }
    }

    fn refuse(&mut self, contents: Option<Contents>, error: &TlsError) {
        if contents.is_none() && self.seen.is_none() {
            return;
        }
        self.reloading
            .reloads
            .failed
            .fetch_add(1, Ordering::Relaxed);
        tracing::error!(%error, "New TLS files are refused, the last good ones stay in force.");
        self.seen = contents;
    }
}

/// Without a watcher the timer does the work, so its failure is a warning.
fn watch_folders(files: &TlsFiles, hint: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let folders: BTreeSet<&Path> = [&files.certificate, &files.key, &files.ca]
        .into_iter()
        .filter_map(|file| file.parent())
        .collect();
    let on_event = move |event: notify::Result<notify::Event>| {
        let is_change = event.map_or(true, |event| !event.kind.is_access());
        if is_change {
            // A full queue means that a look is due anyway.
            let _is_due = hint.try_send(()).is_err();
        }
    };
    let watched = notify::recommended_watcher(on_event).and_then(|mut watcher| {
        for folder in folders {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    });
    watched
        .inspect_err(|error| tracing::warn!(%error, "TLS folders cannot be watched."))
        .ok()
}

impl<C> std::fmt::Debug for Reloading<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl<C> std::fmt::Debug for Watch<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn write(folder: &Path) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["n-1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        fs::write(folder.join("certificate.pem"), certificate.pem()).unwrap();
    }

    fn files(folder: &Path) -> TlsFiles {
        TlsFiles {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
            ca: folder.join("ca.pem"),
        }
    }

    #[test]
    fn good_new_files_come_into_force() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let (tls, mut watch) = Reloading::server(files(folder.path())).unwrap();
        let before = tls.current();

        watch.look();
        assert!(Arc::ptr_eq(&before, &tls.current()), "nothing has changed");

        write(folder.path());
        watch.look();
        assert!(!Arc::ptr_eq(&before, &tls.current()));
        assert_eq!((tls.reloads().succeeded(), tls.reloads().failed()), (1, 0));
    }

    #[test]
    fn a_rotation_caught_half_way_keeps_the_last_good_files() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(folder.path());
        write(other.path());
        let (tls, mut watch) = Reloading::server(files(folder.path())).unwrap();
        let before = tls.current();

        fs::copy(other.path().join("key.pem"), folder.path().join("key.pem")).unwrap();
        watch.look();
        watch.look();
        assert!(Arc::ptr_eq(&before, &tls.current()));
        assert_eq!(tls.reloads().failed(), 1, "counted once");

        fs::remove_file(folder.path().join("key.pem")).unwrap();
        watch.look();
        watch.look();
        assert!(Arc::ptr_eq(&before, &tls.current()));
        assert_eq!(tls.reloads().failed(), 2);
    }

    #[tokio::test]
    async fn files_renamed_into_place_are_seen_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let (hint, mut hints) = mpsc::channel(1);
        let _watcher = watch_folders(&files(folder.path()), hint).unwrap();

        for _rotation in 0..3 {
            let _earlier = std::iter::from_fn(|| hints.try_recv().ok()).count();
            let staged = folder.path().join("staged");
            fs::copy(folder.path().join("key.pem"), &staged).unwrap();
            fs::rename(&staged, folder.path().join("key.pem")).unwrap();
            let hint = tokio::time::timeout(Duration::from_secs(20), hints.recv()).await;
            assert_eq!(hint, Ok(Some(())));
        }
    }

    #[test]
    fn files_that_are_bad_at_the_start_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = Reloading::server(files(folder.path())).err().unwrap();
        assert!(matches!(refusal, TlsError::Unreadable { .. }));

        write(folder.path());
        fs::write(folder.path().join("certificate.pem"), "nothing").unwrap();
        let refusal = Reloading::server(files(folder.path())).err().unwrap();
        assert!(matches!(refusal, TlsError::NoCertificate { .. }));

        write(folder.path());
        fs::write(folder.path().join("ca.pem"), "").unwrap();
        let refusal = Reloading::client(files(folder.path())).err().unwrap();
        assert!(matches!(refusal, TlsError::NoCertificate { .. }));
    }
}
