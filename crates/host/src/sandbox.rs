//! Drops what a server does not need once its image and socket (or, where the host's own kernel gets the disk, the
//! kernel's device) are open, so that a guest that takes it over gets the disk that it has already, and nothing
//! else of the host.
//!
//! Two walls, each through a kept crate: a *seccomp* filter, which lets only the system calls of the data
//! path and of sessions through (all others fail with EPERM), for every thread; and *Landlock*, which takes
//! away the file system but for removing the socket, for this thread and those it starts. A kernel without
//! Landlock still has the first wall; [`Walls`] says what stands.
//!
//! What goes through an io_uring no filter of system calls sees: it could open files and connect sockets. So
//! the rings are made before the walls stand (`Volume::prepare`), each restricted by the kernel for good to
//! reads, writes and fallocate, and afterwards none can be made nor changed.

use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// What must still be possible.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// The folders of what is removed at the end: sockets, say.
    pub folders: Vec<PathBuf>,
    /// Requests (ioctl) to devices of the host, by their numbers.
    pub requests: Vec<u32>,
}

/// What stands now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walls {
    /// Landlock rules the file system and the network.
    pub file_system: bool,
    /// Seccomp filters system calls.
    pub system_calls: bool,
}

/// Why the server could not be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The folder of the socket.
    #[error("cannot open {} to confine the server to it", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: landlock::PathFdError,
    },
    /// Landlock is there and refuses.
    #[error("cannot confine the server's files")]
    Landlock(#[source] RulesetError),
    /// The filter can not be built.
    #[error("cannot build the filter of system calls")]
    Filter(#[source] seccompiler::BackendError),
    /// The filter can not be set.
    #[error("cannot set the filter of system calls")]
    Seccomp(#[source] seccompiler::Error),
}

/// How many threads this process has; `None` where the system does not tell. Landlock is for the one that calls
/// [`confine`] and for those started afterwards: there should be no other.
pub fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Confines this process for good. To be called by the main thread, with every file open, before any other
/// thread is started.
pub fn confine(needs: &Needs) -> Result<Walls, SandboxError> {
    let file_system = confine_files(needs)?;
    for filter in [no_clone3(), filter(&needs.requests)] {
        let filter = filter.map_err(SandboxError::Filter)?;
        seccompiler::apply_filter_all_threads(&filter).map_err(SandboxError::Seccomp)?;
    }
    Ok(Walls { file_system, system_calls: true })
}

/// True when the kernel has Landlock.
fn confine_files(needs: &Needs) -> Result<bool, SandboxError> {
    let abi = ABI::V4;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(SandboxError::Landlock)?;
    let mut ruleset = ruleset;
    for path in &needs.folders {
        let folder = PathFd::new(path)
            .map_err(|source| SandboxError::Folder { path: path.clone(), source })?;
        ruleset = ruleset
            .add_rule(PathBeneath::new(folder, AccessFs::RemoveFile))
            .map_err(SandboxError::Landlock)?;
    }
    let status = ruleset.restrict_self().map_err(SandboxError::Landlock)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// System calls that pass with any arguments: the data path, sessions, threads, memory, the end.
const ALLOWED: &[i64] = &[
    // Data and durability.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_sync_file_range,
    libc::SYS_fallocate,
    // An image that grows.
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_msync,
    libc::SYS_flock,
    libc::SYS_io_uring_enter,
    // Sessions.
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Into a frontend's pipe, without ever waiting for it.
    libc::SYS_splice,
    libc::SYS_unlinkat,
    // Whether the socket that is to be removed is still the server's own.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    // Threads, signals, time.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_tgkill,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The older names that a C library on this architecture still uses.
#[cfg(target_arch = "x86_64")]
const ALLOWED_OLDER: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLDER: &[i64] = &[];

/// Says that there is no `clone3`, whose flags lie in memory, where no filter sees whether they make a thread
/// or a process. The C library then takes `clone`. It goes before the other filter: of two answers the
/// kernel takes the stricter.
fn no_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, absent, arch)?.try_into()
}

fn filter(requests: &[u32]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: Vec<(i64, Vec<SeccompRule>)> =
        ALLOWED.iter().chain(ALLOWED_OLDER).map(|call| (*call, Vec::new())).collect();
    // A thread, never a process; and of a terminal only what it looks like, of a disk what it serves.
    let thread = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64),
        libc::CLONE_THREAD as u64,
    )?;
    rules.push((libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]));
    let requests = [libc::TCGETS, libc::TIOCGWINSZ]
        .into_iter()
        .chain(requests.iter().map(|request| u64::from(*request)))
        .map(|request| {
            let same =
                SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
            SeccompRule::new(vec![same])
        })
        .collect::<Result<Vec<_>, _>>()?;
    rules.push((libc::SYS_ioctl, requests));
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(
        rules.into_iter().collect(),
        // Nothing on a server's way needs more, and a call that fails is easier to understand from its
        // error than from a process that is gone.
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        arch,
    )?
    .try_into()
}

impl From<SandboxError> for io::Error {
    fn from(error: SandboxError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::process::Command;

    /// How the kernel refuses `request` to `file`.
    fn refusal(file: &File, request: u32) -> Option<i32> {
        crate::sys::vduse::refusal(file.as_fd(), request)
    }

    const CHILD: &str = "ZVB_TEST_SANDBOX_FOLDER";

    /// Runs in a process of its own, which the test below starts: there is no way back out.
    fn in_the_child(folder: &std::path::Path) {
        let mut open = File::options().read(true).write(true).open(folder.join("disk")).unwrap();
        let needs =
            Needs { folders: vec![folder.to_owned()], requests: crate::vduse::REQUESTS.to_vec() };
        let walls = confine(&needs).unwrap();
        assert!(walls.system_calls);

        // What was open goes on, threads start, and the socket can be removed.
        open.write_all(b"data").unwrap();
        open.sync_data().unwrap();
        std::thread::spawn(|| ()).join().unwrap();
        std::fs::remove_file(folder.join("socket")).unwrap();

        // Nothing else is left of the host: not even for a thread that is started now.
        let gone = || {
            assert!(File::open("/proc/self/status").is_err());
            assert!(File::create(folder.join("new")).is_err());
            assert!(std::fs::rename(folder.join("disk"), folder.join("moved")).is_err());
            assert!(std::os::unix::net::UnixStream::connect(folder.join("listening")).is_err());
            assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err());
            assert!(Command::new("true").status().is_err());
            assert!(io_uring::IoUring::new(4).is_err());
            // What a VDUSE device is asked for gets as far as the file, which is none; all else does not.
            for request in crate::vduse::REQUESTS {
                assert_eq!(refusal(&open, *request), Some(libc::ENOTTY), "{request:#x}");
            }
            for request in [libc::FIONREAD as u32, 0x4150_8102, 0x4100_8103, 0x4020_8114] {
                assert_eq!(refusal(&open, request), Some(libc::EPERM), "{request:#x}");
            }
        };
        gone();
        std::thread::scope(|s| s.spawn(gone).join().unwrap());
        let mut read = Vec::new();
        open.read_to_end(&mut read).unwrap();
    }

    #[test]
    fn what_a_server_does_not_need_is_gone() {
        if let Some(folder) = std::env::var_os(CHILD) {
            return in_the_child(folder.as_ref());
        }
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("disk")).unwrap();
        File::create(folder.path().join("socket")).unwrap();
        let _listening =
            std::os::unix::net::UnixListener::bind(folder.path().join("listening")).unwrap();
        let name = "sandbox::tests::what_a_server_does_not_need_is_gone";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads", "1", "--nocapture"])
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        assert!(!folder.path().join("socket").exists());
    }
}
