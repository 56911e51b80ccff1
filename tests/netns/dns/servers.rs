// SPDX-License-Identifier: Apache-2.0
//! DNS servers of tests: a real one, and those that misbehave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nsm::mesh::Pod;
use tempfile::TempDir;

use crate::world::{PATIENCE, inside, prints, wait_for};

/// `dnsmasq` in a pod, until this is dropped.
pub(crate) struct Dnsmasq {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Dnsmasq {
    /// Serves these records at an address, once the pod has it.
    pub(crate) async fn start(pod: &Pod, address: &str, records: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let mut command = pod.command("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                "dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--user=root",
                "--pid-file=",
            ])
            .args(["--log-queries", "--local-ttl=300", "--neg-ttl=300"])
            .arg(format!("--listen-address={address}"))
            .arg(format!("--log-facility={}", log.display()))
            .args(records)
            .stdin(Stdio::null());
        let child = command.spawn().context("dnsmasq cannot be started")?;
        let server = Self {
            child,
            log,
            _folder: folder,
        };
        let listens = format!("{address}:53");
        wait_for(PATIENCE, "dnsmasq listens", async || {
            let sockets = prints(pod, "ss", &["-H", "-lnt"])?;
            Ok(sockets.contains(&listens).then_some(()))
        })
        .await?;
        Ok(server)
    }

    /// The names that it was asked for.
    pub(crate) fn asked(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(&self.log)?;
        let query = |line: &str| {
            let words = line.split_once(" query[")?.1;
            words.split_whitespace().nth(1).map(String::from)
        };
        Ok(log.lines().filter_map(query).collect())
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// How many addresses fill an answer of 64 KiB.
pub(crate) const MANY: usize = 4090;

/// What a server sends for what it gets by UDP: messages, each from its own port or from another one.
type Misbehave = fn(&[u8]) -> Vec<(Vec<u8>, bool)>;

/// A server at an address in a pod that misbehaves by UDP, and answers with a great many addresses by TCP.
pub(crate) struct Hostile {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

impl Hostile {
    pub(crate) fn start(pod: &Pod, address: &str, misbehave: Misbehave) -> Result<Self> {
        let (netns, address) = (std::fs::File::open(pod.path())?, address.to_string());
        let (udp, other, tcp) = inside(netns, move || {
            let udp = UdpSocket::bind((address.as_str(), 53))?;
            let other = UdpSocket::bind((address.as_str(), 0))?;
            Ok((udp, other, TcpListener::bind((address.as_str(), 53))?))
        })?;
        udp.set_read_timeout(Some(LOOK))?;
        tcp.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (by_udp, by_tcp) = (stop.clone(), stop.clone());
        let threads = vec![
            std::thread::spawn(move || serve_udp(&by_udp, &udp, &other, misbehave)),
            std::thread::spawn(move || serve_tcp(&by_tcp, &tcp)),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn serve_udp(stop: &AtomicBool, socket: &UdpSocket, other: &UdpSocket, misbehave: Misbehave) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        for (answer, is_from_elsewhere) in misbehave(&buffer[..length]) {
            let socket = if is_from_elsewhere { other } else { socket };
            let _they_may_be_gone = socket.send_to(&answer, from);
        }
    }
}

fn serve_tcp(stop: &AtomicBool, listener: &TcpListener) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(converse(stream)),
            Err(_) => std::thread::park_timeout(LOOK),
        }
    }
}

fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    let answer = with_addresses(&query, MANY);
    stream.write_all(&(answer.len() as u16).to_be_bytes())?;
    stream.write_all(&answer)
}

/// The end of the question, which begins behind the twelve bytes of the header.
fn end_of_question(query: &[u8]) -> usize {
    let mut at = 12;
    while query[at] != 0 {
        at += 1 + usize::from(query[at]);
    }
    at + 5
}

/// An answer to a query with so many addresses.
fn with_addresses(query: &[u8], many: usize) -> Vec<u8> {
    let mut answer = query[..end_of_question(query)].to_vec();
    answer[2] = 0x81;
    answer[3] = 0x80;
    answer[6..8].copy_from_slice(&(many as u16).to_be_bytes());
    answer[8..12].fill(0);
    for number in 0..many {
        // The name of the question, an address of the Internet, for a minute, of four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend([10, 9, (number >> 8) as u8, number as u8]);
    }
    answer
}

/// Answers with a wrong id, to another question, and from another port.
pub(crate) fn lies(query: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let answer = with_addresses(query, 1);
    let (mut id, mut question) = (answer.clone(), answer.clone());
    id[0] ^= 1;
    question[13] ^= 1;
    vec![(id, false), (question, false), (answer, true)]
}

/// An answer that did not fit.
pub(crate) fn cut(query: &[u8]) -> Vec<(Vec<u8>, bool)> {
    let mut answer = with_addresses(query, 0);
    answer[2] |= 2;
    vec![(answer, false)]
}

/// A file that nobody can write, until this is dropped.
pub(crate) struct ReadOnly(String);

impl ReadOnly {
    pub(crate) fn new(path: &str) -> Result<Self> {
        mount(&["--bind", path, path])?;
        let file = Self(path.to_string());
        mount(&["-o", "remount,bind,ro", path])?;
        Ok(file)
    }
}

fn mount(arguments: &[&str]) -> Result<()> {
    let done = Command::new("mount").args(arguments).status()?;
    ensure!(done.success(), "mount {arguments:?} failed");
    Ok(())
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg(&self.0).status() {
            eprintln!("{error}");
        }
    }
}
