//! Clients of all kinds at a control socket.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::server::NoLog;

/// Says what it was told.
struct Echo;

impl Commands for Echo {
    fn run(&self, line: &[u8], answer: &mut dyn Write) -> io::Result<Next> {
        match line {
            b"end" => {
                answer.write_all(b"ending")?;
                return Ok(Next::End);
            }
            b"flood" => {
                for _ in 0..1 << 16 {
                    answer.write_all(&[b'x'; 1 << 10])?;
                }
            }
            line => answer.write_all(line)?,
        }
        Ok(Next::Line)
    }

    fn refuse(&self, answer: &mut dyn Write) -> io::Result<()> {
        answer.write_all(b"too long")
    }

    fn end(&self) {}
}

struct Rig {
    path: PathBuf,
    controlled: Option<Controlled>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = Control::bind(&path).unwrap();
        let controlled = control.start(Arc::new(Echo), Arc::new(NoLog)).unwrap();
        Self { path, controlled: Some(controlled), _folder: folder }
    }

    fn client(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        BufReader::new(stream)
    }
}

fn send(client: &mut BufReader<UnixStream>, bytes: &[u8]) {
    client.get_mut().write_all(bytes).unwrap();
}

fn line(client: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

fn is_over(client: &mut BufReader<UnixStream>) -> bool {
    matches!(client.fill_buf(), Ok([]) | Err(_))
}

#[test]
fn lines_are_answered_however_they_are_cut() {
    let rig = Rig::new();
    let mode = std::fs::metadata(&rig.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = rig.client();
    send(&mut client, b"one\n\n  \r\ntwo\nth");
    assert_eq!((line(&mut client), line(&mut client)), ("one\n".into(), "two\n".into()));
    send(&mut client, b"ree\n\xff\xfe\nfour");
    assert_eq!(line(&mut client), "three\n");
    let mut bytes = Vec::new();
    client.read_until(b'\n', &mut bytes).unwrap();
    assert_eq!(bytes, b"\xff\xfe\n");
    // The last needs no end.
    client.get_ref().shutdown(Direction::Write).unwrap();
    assert_eq!(line(&mut client), "four\n");
    assert!(is_over(&mut client));
}

#[test]
fn a_line_without_end_is_not_read_for_ever() {
    let rig = Rig::new();
    let mut client = rig.client();
    send(&mut client, &vec![b'a'; LINE_MAX]);
    send(&mut client, b"\n");
    assert_eq!(line(&mut client).len(), LINE_MAX + 1);
    // The server stops reading at some point: what is sent after that may not be taken.
    let _ = client.get_mut().write_all(&vec![b'a'; LINE_MAX + 5000]);
    assert_eq!(line(&mut client), "too long\n");
    assert!(is_over(&mut client));
    let mut other = rig.client();
    send(&mut other, b"still here\n");
    assert_eq!(line(&mut other), "still here\n");
}

#[test]
fn the_longest_silent_makes_room_and_there_are_never_too_many() {
    let rig = Rig::new();
    let mut clients: Vec<_> = (0..CONNECTIONS_MAX).map(|_| rig.client()).collect();
    // The first speaks last.
    for client in clients.iter_mut().rev() {
        send(client, b"hello\n");
        assert_eq!(line(client), "hello\n");
    }
    let mut new = rig.client();
    send(&mut new, b"me too\n");
    assert_eq!(line(&mut new), "me too\n");
    assert!(is_over(clients.last_mut().unwrap()));
    send(&mut clients[0], b"I stay\n");
    assert_eq!(line(&mut clients[0]), "I stay\n");
    // Any number that come and go, with a word or without.
    for i in 0..100 {
        let mut client = rig.client();
        if i % 2 == 0 {
            client.get_mut().write_all(b"half a li").unwrap();
        }
    }
    let desk = &rig.controlled.as_ref().unwrap().desk;
    assert!(lock(&desk.clients).len() <= CONNECTIONS_MAX);
    let mut last = rig.client();
    send(&mut last, b"and now\n");
    assert_eq!(line(&mut last), "and now\n");
}

#[test]
fn who_does_not_read_holds_nobody_up() {
    let mut rig = Rig::new();
    let mut deaf = rig.client();
    send(&mut deaf, b"flood\n");
    let mut other = rig.client();
    send(&mut other, b"hello\n");
    assert_eq!(line(&mut other), "hello\n");
    let begun = Instant::now();
    drop(rig.controlled.take().unwrap().stop());
    assert!(begun.elapsed() < WRITE_PATIENCE / 2, "it is cut off, not waited for");
    assert!(is_over(&mut other));
}

#[test]
fn who_waits_for_the_end_sees_it() {
    let mut rig = Rig::new();
    let mut client = rig.client();
    send(&mut client, b"end\n");
    assert_eq!(line(&mut client), "ending\n");
    let waiting = rig.controlled.take().unwrap().stop();
    assert!(!rig.path.exists(), "nobody else comes");
    client.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let silent = client.fill_buf().unwrap_err();
    assert!(matches!(silent.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    drop(waiting);
    assert!(matches!(client.fill_buf(), Ok([])));
}

#[test]
fn who_comes_too_late_to_be_answered_sees_the_end_all_the_same() {
    let mut rig = Rig::new();
    let mut known = rig.client();
    send(&mut known, b"hello\n");
    assert_eq!(line(&mut known), "hello\n");
    let waiting = rig.controlled.take().unwrap().stop();
    // Nobody takes what is sent now, and nobody cuts the connection off before the end.
    let _ = known.get_mut().write_all(b"end\n");
    known.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let silent = known.fill_buf().unwrap_err();
    assert!(matches!(silent.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
    drop(waiting);
    assert!(is_over(&mut known));
}

#[test]
fn a_socket_that_is_served_is_left_alone() {
    let rig = Rig::new();
    assert!(matches!(Control::bind(&rig.path), Err(BindError::InUse { .. })));
}
