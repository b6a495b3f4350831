//! A server whose dynamic shared memory is in files, from which a test can keep its sessions.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cluster::Cluster;

/// As long as this lives, sessions cannot do with the files what was forbidden.
#[must_use]
pub struct Sealed(PathBuf);

impl Cluster {
    /// A new cluster whose dynamic shared memory is in files. There are no parallel queries, which need such memory, too.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with_memory_files() -> Arc<Self> {
        Self::start_with("dynamic_shared_memory_type = mmap\nmax_parallel_workers_per_gather = 0")
    }

    /// Sessions can attach to the memory that is there, and not make more.
    pub fn forbid_new_memory(&self) -> Sealed {
        self.seal_memory(0o500)
    }

    /// Sessions can neither attach to memory nor make any.
    pub fn forbid_memory(&self) -> Sealed {
        self.seal_memory(0)
    }

    fn seal_memory(&self, mode: u32) -> Sealed {
        let folder = self.data().join("pg_dynshmem");
        fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("the folder is there");
        Sealed(folder)
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, Permissions::from_mode(0o700));
    }
}
