// SPDX-License-Identifier: Apache-2.0
//! Hears programs of the pod by UDP and TCP.
//!
//! What is known is answered at once. What has to be asked of others is bounded: beyond that it fails at once, so that
//! what is known is answered still.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::core::{Component, Task};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use crate::resolve::{Heard, Question, Reply, Resolve, bytes, datagram};
use crate::upstream::{read_message, write_message};

/// How many questions may wait for others.
const QUESTIONS: usize = 256;

/// How many programs may be connected by TCP, and for how long one may say nothing.
const CONNECTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);

/// Longer questions are none.
const LONGEST: usize = 4096;

/// The sockets on which we hear.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let udp = UdpSocket::bind(address)?;
        let tcp = TcpListener::bind(address)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }

    /// Hears until the tasks are dropped.
    pub(crate) fn serve(self, component: &Component, resolve: &Arc<Resolve>) -> io::Result<[Task; 2]> {
        let server = Server {
            component: component.clone(),
            resolve: resolve.clone(),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
        };
        let udp = Arc::new(tokio::net::UdpSocket::from_std(self.udp)?);
        let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
        Ok([
            component.spawn("dns-udp", server.clone().hear_udp(udp)),
            component.spawn("dns-tcp", server.hear_tcp(tcp)),
        ])
    }
}

#[derive(Clone)]
struct Server {
    component: Component,
    resolve: Arc<Resolve>,
    questions: Arc<Semaphore>,
}

impl Server {
    async fn hear_udp(self, socket: Arc<tokio::net::UdpSocket>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            let (heard, from) = match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => (buffer.get(..length).unwrap_or_default(), from),
                Err(error) => {
                    debug!(%error, "nothing could be heard by UDP");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let reply = match self.resolve.hear(heard) {
                Heard::Nothing => None,
                Heard::Reply(reply) => datagram(&reply, heard),
                Heard::Question(question) => self.ask_for(question, &socket, from),
            };
            if let Some(reply) = reply {
                let _they_ask_again = socket.send_to(&reply, from).await;
            }
        }
    }

    /// Asks others and sends their answer later, or answers now that too many questions wait.
    fn ask_for(
        &self,
        question: Box<Question>,
        socket: &Arc<tokio::net::UdpSocket>,
        from: SocketAddr,
    ) -> Option<Vec<u8>> {
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            return bytes(&question.failed(), question.payload());
        };
        let (server, socket) = (self.clone(), socket.clone());
        self.component.spawn_detached("dns-question", async move {
            let _permit = permit;
            let Some(reply) = server.ask(&question).await else {
                return;
            };
            if let Some(reply) = bytes(&reply, question.payload()) {
                let _they_ask_again = socket.send_to(&reply, from).await;
            }
        });
        None
    }

    /// The answer of others, unless we are to end before.
    async fn ask(&self, question: &Question) -> Option<Reply> {
        tokio::select! {
            reply = self.resolve.ask(question) => Some(reply),
            () = self.component.shutdown().cancelled() => None,
        }
    }

    async fn hear_tcp(self, listener: tokio::net::TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    self.component.spawn_detached("dns-connection", async move {
                        let _permit = permit;
                        tokio::select! {
                            _ended = server.converse(stream) => {}
                            () = server.component.shutdown().cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    debug!(%error, "nobody could be heard by TCP");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// One question after the other.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let heard = timeout(IDLE, read_message(&mut stream)).await??;
            let reply = match self.resolve.hear(&heard) {
                Heard::Nothing => return Ok(()),
                Heard::Reply(reply) => *reply,
                Heard::Question(question) => match self.questions.clone().try_acquire_owned() {
                    Ok(_permit) => self.resolve.ask(&question).await,
                    Err(_) => question.failed(),
                },
            };
            let reply = bytes(&reply, u16::MAX.into()).ok_or(io::ErrorKind::InvalidData)?;
            timeout(IDLE, write_message(&mut stream, &reply)).await??;
        }
    }
}
