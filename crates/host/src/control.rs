//! A control socket: lines of bytes in, lines of bytes out, for this user alone. What the lines mean is
//! for [`Commands`] to say.
//!
//! Whoever connects is taken for hostile or confused: lines are bounded, so are connections (the one that
//! was silent longest makes room for a new one), and nobody who does not read is waited for longer than
//! [`WRITE_PATIENCE`]. Nothing here touches the threads that serve a guest.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown as Direction;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::server::event::Bell;
use crate::server::socket::Socket;
use crate::server::{BindError, Level, Log, RateLimited};

/// The longest line that is taken, without its end.
pub const LINE_MAX: usize = 64 << 10;

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 16;

/// How long one write to a client may take.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// How long a command that is under way at the end may take before its connection is cut off.
const END_PATIENCE: Duration = Duration::from_millis(200);

/// How long to wait before trying again when the host has no room for a connection.
const ACCEPT_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What a command leaves to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Another line.
    Line,
    /// Nothing: the client waits for the end of the server, which it sees by the end of its connection.
    /// [`Commands::end`] is called once it has its answer.
    End,
}

/// Carries out lines.
pub trait Commands: Send + Sync {
    /// Carries `line` out (without its end; not empty, at most [`LINE_MAX`] bytes, perhaps not UTF-8), and
    /// answers with one line. Called from several threads. The connection ends when writing fails.
    fn run(&self, line: &[u8], answer: &mut dyn Write) -> io::Result<Next>;

    /// Answers, with one line, a line that is too long.
    fn refuse(&self, answer: &mut dyn Write) -> io::Result<()>;

    /// The server is to end.
    fn end(&self);
}

/// A control socket that listens.
#[derive(Debug)]
pub struct Control(Socket);

impl Control {
    /// Listens at `path`, for this user alone (mode 0600). What is there already is treated as by
    /// [`Server::bind`](crate::server::Server::bind).
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Socket::bind(path).map(Self)
    }

    /// Serves in threads of its own, until [`Controlled::stop`].
    pub fn start(self, commands: Arc<dyn Commands>, log: Arc<dyn Log>) -> io::Result<Controlled> {
        let desk = Arc::new(Desk {
            commands,
            log: RateLimited::new(log),
            end: Bell::new()?,
            ending: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            clients: Mutex::default(),
            waiting: Mutex::default(),
        });
        let thread = thread::Builder::new().name("control".into()).spawn({
            let desk = Arc::clone(&desk);
            move || desk.accept(self.0)
        })?;
        Ok(Controlled { desk, thread: Some(thread) })
    }
}

/// A control socket that is served.
pub struct Controlled {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<OwnedFd>>,
}

impl fmt::Debug for Controlled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controlled").finish_non_exhaustive()
    }
}

/// The clients that wait for the end, or will see it: dropping this tells them.
#[derive(Debug)]
#[must_use = "the clients are told when this is dropped"]
#[expect(dead_code, reason = "only dropped")]
pub struct Waiting {
    clients: Vec<Arc<UnixStream>>,
    /// With those that nobody took.
    listener: Option<OwnedFd>,
}

impl Controlled {
    /// Takes no command any more, and none runs afterwards. Connections stay until the end, which clients
    /// see by theirs: whoever says "end" a moment too late learns no less.
    pub fn stop(mut self) -> Waiting {
        let listener = self.join();
        Waiting { clients: std::mem::take(&mut *lock(&self.desk.waiting)), listener }
    }

    fn join(&mut self) -> Option<OwnedFd> {
        self.desk.ending.store(true, Ordering::Release);
        self.desk.end.ring();
        // It ends by itself.
        self.thread.take()?.join().ok()
    }
}

impl Drop for Controlled {
    fn drop(&mut self) {
        self.join();
    }
}

/// What the threads share.
struct Desk {
    commands: Arc<dyn Commands>,
    log: RateLimited,
    end: Bell,
    /// Connections are kept.
    ending: AtomicBool,
    /// Counts commands, to tell which client was silent longest.
    clock: AtomicU64,
    clients: Mutex<Vec<Client>>,
    waiting: Mutex<Vec<Arc<UnixStream>>>,
}

/// What the thread of a connection says of it.
struct Pulse {
    /// When it last sent a line, by the clock.
    heard: AtomicU64,
    /// The client waits for the end.
    waits: AtomicBool,
}

/// A connection, and the thread that serves it.
struct Client {
    stream: Arc<UnixStream>,
    pulse: Arc<Pulse>,
    thread: JoinHandle<()>,
}

impl Client {
    /// Cuts it off and waits until its thread has ended.
    fn end(self) {
        if !self.pulse.waits.load(Ordering::Acquire) {
            // Fails when it has ended already.
            let _ = self.stream.shutdown(Direction::Both);
        }
        // A thread that died has left nothing behind.
        let _ = self.thread.join();
    }

    /// Takes no more from it, and waits until its thread has ended. The connection is left, unless it is
    /// what the thread waits for.
    fn hush(self) -> Arc<UnixStream> {
        let _ = self.stream.shutdown(Direction::Read);
        let begun = Instant::now();
        while !self.thread.is_finished() && begun.elapsed() < END_PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let stream = Arc::clone(&self.stream);
        if self.thread.is_finished() {
            let _ = self.thread.join();
        } else {
            self.end();
        }
        stream
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// The whole life of the thread that accepts. What is left is the listener, of which nobody hears any more.
    fn accept(self: &Arc<Self>, socket: Socket) -> OwnedFd {
        while self.wait(Some(&socket), None) {
            match accept_with(&socket, SocketFlags::CLOEXEC) {
                Ok(stream) => self.welcome(stream),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    let error = io::Error::from(errno);
                    self.log.log(
                        Level::Error,
                        format_args!("cannot take a control connection: {error}"),
                    );
                    self.wait(None, Some(&ACCEPT_PAUSE));
                }
            }
        }
        let listener = socket.into_fd();
        let clients = std::mem::take(&mut *lock(&self.clients));
        let kept: Vec<_> = clients.into_iter().map(Client::hush).collect();
        lock(&self.waiting).extend(kept);
        listener
    }

    /// Waits until there is a connection, or for so long. False when it is time to end.
    fn wait(&self, socket: Option<&Socket>, timeout: Option<&Timespec>) -> bool {
        let events = if socket.is_some() { PollFlags::IN } else { PollFlags::empty() };
        let listener = socket.map_or(self.end.as_fd(), AsFd::as_fd);
        let mut fds =
            [PollFd::new(&self.end, PollFlags::IN), PollFd::from_borrowed_fd(listener, events)];
        loop {
            match poll(&mut fds, timeout) {
                Err(Errno::INTR) => {}
                // Nothing goes wrong with descriptors that we hold.
                Err(_) => return false,
                Ok(_) => return fds[0].revents().is_empty(),
            }
        }
    }

    /// Gives a connection a thread, after making room for it.
    fn welcome(self: &Arc<Self>, stream: OwnedFd) {
        self.make_room();
        let stream = Arc::new(UnixStream::from(stream));
        let heard = AtomicU64::new(self.clock.fetch_add(1, Ordering::Relaxed));
        let pulse = Arc::new(Pulse { heard, waits: AtomicBool::new(false) });
        let spawned = thread::Builder::new().name("control client".into()).spawn({
            let (desk, stream, pulse) = (Arc::clone(self), Arc::clone(&stream), Arc::clone(&pulse));
            move || desk.serve(&stream, &pulse)
        });
        match spawned {
            Ok(thread) => lock(&self.clients).push(Client { stream, pulse, thread }),
            Err(error) => {
                let text = format_args!("no thread for a control connection: {error}");
                self.log.log(Level::Error, text);
            }
        }
    }

    /// Sees to it that there are fewer clients, and threads, than there may be.
    fn make_room(&self) {
        let mut clients = lock(&self.clients);
        let (ended, kept) = clients.drain(..).partition(|client| client.thread.is_finished());
        *clients = kept;
        let silent = (0..clients.len()).min_by_key(|i| {
            clients.get(*i).map_or(u64::MAX, |client| client.pulse.heard.load(Ordering::Relaxed))
        });
        let full = clients.len() >= CONNECTIONS_MAX;
        let silent = silent.filter(|_| full).map(|silent| clients.swap_remove(silent));
        drop(clients);
        let ended: Vec<Client> = ended;
        ended.into_iter().chain(silent).for_each(Client::end);
    }

    /// The whole life of a connection's thread.
    fn serve(&self, stream: &Arc<UnixStream>, pulse: &Pulse) {
        // Without it a client that does not read is waited for until another takes its place.
        let _ = stream.set_write_timeout(Some(WRITE_PATIENCE));
        let mut lines = Lines { stream, buffer: Vec::new(), read: 0, ended: false };
        loop {
            let next = match lines.next() {
                Ok(Line::Text(line)) => {
                    pulse
                        .heard
                        .store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                    self.answer(stream, |answer| self.commands.run(line, answer))
                }
                Ok(Line::TooLong) => {
                    // Where the next line would begin is not looked for.
                    let _ = self
                        .answer(stream, |answer| self.commands.refuse(answer).map(|()| Next::End));
                    break;
                }
                Ok(Line::End) | Err(_) => break,
            };
            match next {
                Ok(Next::Line) => {}
                Ok(Next::End) => {
                    let mut waiting = lock(&self.waiting);
                    if waiting.len() < CONNECTIONS_MAX {
                        waiting.push(Arc::clone(stream));
                        pulse.waits.store(true, Ordering::Release);
                    }
                    drop(waiting);
                    self.commands.end();
                    return;
                }
                Err(_) => break,
            }
        }
        // The desk still holds the stream, and at the end keeps it.
        if !self.ending.load(Ordering::Acquire) {
            let _ = stream.shutdown(Direction::Both);
        }
    }

    fn answer(
        &self,
        stream: &UnixStream,
        write: impl FnOnce(&mut dyn Write) -> io::Result<Next>,
    ) -> io::Result<Next> {
        let mut answer = io::BufWriter::with_capacity(1 << 16, stream);
        let next = write(&mut answer)?;
        answer.write_all(b"\n")?;
        answer.flush()?;
        Ok(next)
    }
}

/// Splits what comes into lines.
struct Lines<'a> {
    stream: &'a UnixStream,
    buffer: Vec<u8>,
    /// How much of the buffer was given out.
    read: usize,
    ended: bool,
}

enum Line<'a> {
    Text(&'a [u8]),
    TooLong,
    End,
}

impl Lines<'_> {
    /// The next line that is not empty. One without an end, where the client stops sending, is one too.
    fn next(&mut self) -> io::Result<Line<'_>> {
        self.buffer.drain(..self.read);
        self.read = 0;
        let mut looked = 0;
        let (start, end) = loop {
            let rest = self.buffer.get(looked..).unwrap_or_default();
            let found = rest.iter().position(|byte| *byte == b'\n');
            let start = self.read;
            let end = found.map_or(self.buffer.len(), |at| looked.saturating_add(at));
            if end.saturating_sub(start) > LINE_MAX {
                return Ok(Line::TooLong);
            }
            if found.is_none() && !self.ended {
                looked = end;
                self.fill()?;
                continue;
            }
            self.read = end.saturating_add(1).min(self.buffer.len());
            looked = self.read;
            if found.is_none() || !blank(self.buffer.get(start..end).unwrap_or_default()) {
                break (start, end);
            }
        };
        match self.buffer.get(start..end) {
            Some(line) if !blank(line) => Ok(Line::Text(line)),
            _ => Ok(Line::End),
        }
    }

    /// Reads more, or notices the end.
    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 4096];
        let mut stream = self.stream;
        let n = loop {
            match stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default());
        self.ended = n == 0;
        Ok(())
    }
}

fn blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests;
