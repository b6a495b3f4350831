//! Ids of accounts, transactions, batches, caps, API keys and ledgers. All are uuids, and the compiler keeps them apart.

use std::fmt;

/// A newtype over the bytes of a uuid, with the same layout, so that an id can be read from a stored uuid in place.
macro_rules! id {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these bytes, in the order in which a uuid is written.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its bytes, in the order in which a uuid is written.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        /// As the server writes a uuid.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id! {
    /// An account: `user_id` of the ledger and of its checkpoints.
    UserId
}

id! {
    /// A transaction: `id` of the ledger, and what `reverses` names.
    TransactionId
}

id! {
    /// A batch of usage rows: `fusillade_batch_id` of the ledger and of the batch totals.
    BatchId
}

id! {
    /// A spend cap: `id` of `spend_caps`.
    CapId
}

id! {
    /// An API key: `api_key_id` of the ledger and of holds.
    ApiKeyId
}

id! {
    /// A ledger: `ledger_id` of `ledger_identity`.
    LedgerId
}

fn write_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (place, byte) in bytes.iter().enumerate() {
        let separator = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(f, "{separator}{byte:02x}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_a_uuid() {
        let id = UserId::from_bytes(0x0123_4567_89ab_cdef_0011_2233_4455_6677_u128.to_be_bytes());
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(format!("{id:?}"), "UserId(01234567-89ab-cdef-0011-223344556677)");
    }

    #[test]
    fn ids_are_ordered_as_their_bytes() {
        let ids = [1_u128, 256, 1 << 127].map(|id| BatchId::from_bytes(id.to_be_bytes()));
        assert!(ids.is_sorted());
    }
}
