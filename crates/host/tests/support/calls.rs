//! System calls of threads, counted by the kernel: it asks before each is done (seccomp's notifications).

// UNSAFETY: seccomp's own interface, for which there are no safe calls.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::{fs, mem, ptr, thread};

use libc::{c_long, seccomp_notif, seccomp_notif_resp, sock_filter, sock_fprog};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::set_no_new_privs;

/// Those that are counted, and what they are called here.
const COUNTED: [(c_long, &str); 10] = [
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite"),
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_pwritev2, "pwritev2"),
    (libc::SYS_pread64, "pread"),
    (libc::SYS_preadv2, "preadv2"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
];

/// What a write to an eventfd is called, and a read of one.
pub const SIGNAL: &str = "signal";
pub const KICK: &str = "kick";

/// By thread and name.
type Counts = HashMap<(i32, &'static str), usize>;

/// Calls that were counted.
pub struct Calls(Arc<Mutex<Counts>>);

impl Calls {
    /// Runs `make` on a thread of its own: what the threads that it starts call is counted from then on.
    /// `None` where the kernel does not tell.
    pub fn of<T: Send>(make: impl FnOnce() -> T + Send) -> Option<(Self, T)> {
        let counts = Arc::<Mutex<Counts>>::default();
        let (sender, receiver) = channel();
        // Started here, so that it is not asked about itself.
        thread::spawn({
            let counts = Arc::clone(&counts);
            move || {
                if let Ok(listener) = receiver.recv() {
                    count(&listener, &counts);
                }
            }
        });
        let watched = move || {
            sender.send(listen().ok()?).unwrap();
            Some(make())
        };
        let made = thread::scope(|scope| scope.spawn(watched).join().unwrap())?;
        Some((Self(counts), made))
    }

    /// What `thread` called since the last time.
    pub fn take(&self, thread: i32) -> HashMap<&'static str, usize> {
        let mut counts = self.0.lock().unwrap();
        let of_thread = counts.extract_if(|(id, _), _| *id == thread);
        of_thread.map(|((_, name), count)| (name, count)).collect()
    }
}

/// Has the kernel ask about calls of this thread and of all that it starts.
fn listen() -> io::Result<OwnedFd> {
    let [load, jump, ret] = [
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    ]
    .map(|code| code as u16);
    let step = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    // The number of the call is the first that a filter sees.
    let mut steps = vec![step(load, 0, 0)];
    for (left, (number, _)) in (1..=COUNTED.len()).rev().zip(COUNTED) {
        steps.push(step(jump, left as u8, number as u32));
    }
    steps.push(step(ret, 0, libc::SECCOMP_RET_ALLOW));
    steps.push(step(ret, 0, libc::SECCOMP_RET_USER_NOTIF));
    let program = sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    set_no_new_privs(true)?;
    // SAFETY: the program and its steps outlive the call.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            ptr::from_ref(&program),
        )
    };
    match i32::try_from(listener) {
        // SAFETY: a descriptor that the kernel has just made for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Counts until nobody is left to ask about.
fn count(listener: &OwnedFd, counts: &Mutex<Counts>) {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[0].revents().contains(PollFlags::IN) {
            return;
        }
        // SAFETY: plain numbers, for which 0 is fine; the kernel wants them 0.
        let mut asked: seccomp_notif = unsafe { mem::zeroed() };
        // SAFETY: what this ioctl fills.
        let got = unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked)
        };
        if got != 0 {
            // Who asked is gone.
            continue;
        }
        let number = c_long::from(asked.data.nr);
        if let Some((_, name)) = COUNTED.iter().find(|(counted, _)| *counted == number) {
            let file = fs::read_link(format!("/proc/self/fd/{}", asked.data.args[0]));
            let name = match file {
                Ok(file) if file.as_os_str() == "anon_inode:[eventfd]" => {
                    match name.contains("write") {
                        true => SIGNAL,
                        false => KICK,
                    }
                }
                _ => name,
            };
            *counts.lock().unwrap().entry((asked.pid as i32, name)).or_default() += 1;
        }
        let mut answer = seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: 0,
            flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
        };
        // SAFETY: what this ioctl reads. (It fails if who asked is gone.)
        unsafe {
            libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)
        };
    }
}
