//! The closed sets of label values. A new refusal, outcome or state is a variant here, and nowhere a string.

/// A closed set of label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    };
}

label!(
    /// Why a record is refused at the door.
    Refused {
        /// No JSON, or not of this shape; also a kind that this collector does not know yet.
        Shape = "shape",
        /// Another schema.
        Schema = "schema",
        /// The fingerprint is not that of kind, workload and subject.
        Fingerprint = "fingerprint",
        /// It speaks for another node than its certificate.
        OtherNode = "other_node",
        /// A kind that only the collector may report.
        OwnKind = "own_kind",
        /// A name holds control or deceptive characters.
        Text = "text",
        /// A name is longer than any that we know.
        TooLong = "too_long",
        /// A kind of record that this collector does not know.
        Body = "body",
        /// A full report names what is no place.
        Place = "place",
    }
);

label!(
    /// How a connection began.
    Handshake {
        /// With a certificate of ours.
        Accepted = "accepted",
        /// Without one.
        Failed = "failed",
        /// Not within its deadline.
        TimedOut = "timed_out",
        /// One too many from its node.
        TooMany = "too_many",
    }
);

label!(
    /// How a delivery ended.
    Delivery {
        /// The receiver has it.
        Delivered = "delivered",
        /// The receiver will not have it.
        Refused = "refused",
        /// The receiver did not answer, or with an error of its own: it is sent again.
        Failed = "failed",
    }
);

label!(
    /// Who is told.
    Receiver {
        /// Alertmanager API v2.
        Alertmanager = "alertmanager",
    }
);

label!(
    /// What a node does.
    NodeState {
        /// It reports.
        Reporting = "reporting",
        /// It has missed three heartbeats.
        Silent = "silent",
    }
);

label!(
    /// What an alert is.
    AlertState {
        /// Sent as firing.
        Firing = "firing",
        /// Sent as resolved, for a while.
        Resolved = "resolved",
        /// Not sent, because there are too many worse ones.
        Withheld = "withheld",
    }
);

label!(
    /// How a reload of TLS files ended.
    Reload {
        /// In force.
        Succeeded = "succeeded",
        /// The last good ones stay.
        Failed = "failed",
    }
);

label!(
    /// Why a relayed skeleton was dropped.
    Dropped {
        /// Its proof failed on two nodes.
        ProofFailed = "proof_failed",
        /// It is none, or of another layer.
        NoSkeleton = "no_skeleton",
    }
);

label!(
    /// How a read of a registry's blob ended.
    Read {
        /// It gave what was sought.
        Succeeded = "succeeded",
        /// It did not; who asks is told why.
        Failed = "failed",
    }
);
