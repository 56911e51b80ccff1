// SPDX-License-Identifier: Apache-2.0
//! Asks one server.
//!
//! By UDP from a fresh port that only hears this server, with an id drawn by chance; what has another id or question is
//! not heard. An answer that did not fit is asked for again by TCP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Edns, Message, MessageType, Query};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nsm_sdk::core::Component;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// What we say that we take by UDP: what passes everywhere in one piece.
pub(crate) const PAYLOAD: u16 = 1232;

/// What we take by UDP, from servers that do not listen.
const DATAGRAM: usize = 4096;

/// What `server` answers to the question of `asked`, and the bytes of that. Takes as long as the server does: the caller bounds it.
pub(crate) async fn ask(
    component: &Component,
    server: SocketAddr,
    asked: &Message,
    question: &Query,
) -> io::Result<Answer> {
    let id = component.random(|random| random.random());
    let bytes = message(asked, question, id).to_vec().map_err(invalid)?;
    let answer = by_udp(server, &bytes, id, question).await?;
    match answer {
        Some(answer) => Ok(answer),
        None => by_tcp(server, &bytes, id, question).await,
    }
}

/// An answer, and its bytes.
pub(crate) type Answer = (Message, Vec<u8>);

/// The question as we ask it.
fn message(asked: &Message, question: &Query, id: u16) -> Message {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = asked.metadata.recursion_desired;
    message.metadata.checking_disabled = asked.metadata.checking_disabled;
    message.metadata.authentic_data = asked.metadata.authentic_data;
    message.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    edns.set_dnssec_ok(asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok));
    message.set_edns(edns);
    message
}

/// The answer, or nothing when it did not fit.
async fn by_udp(server: SocketAddr, bytes: &[u8], id: u16, question: &Query) -> io::Result<Option<Answer>> {
    let any: IpAddr = match server.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let heard = buffer.get(..length).unwrap_or_default();
        match read(heard, id, question) {
            Some(Heard::Whole(answer)) => return Ok(Some((*answer, heard.to_vec()))),
            Some(Heard::Part) => return Ok(None),
            None => {}
        }
    }
}

async fn by_tcp(server: SocketAddr, bytes: &[u8], id: u16, question: &Query) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, bytes).await?;
    let heard = read_message(&mut stream).await?;
    match read(&heard, id, question) {
        Some(Heard::Whole(answer)) => Ok((*answer, heard)),
        _ => Err(invalid("what came by TCP is no answer")),
    }
}

/// Writes a message with its length before it, in one piece.
pub(crate) async fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(invalid)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await
}

/// Reads a message with its length before it.
pub(crate) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

enum Heard {
    Whole(Box<Message>),
    Part,
}

/// What is an answer to the question with this id.
fn read(bytes: &[u8], id: u16, question: &Query) -> Option<Heard> {
    let header = hickory_proto::op::Header::read(&mut BinDecoder::new(bytes))
        .ok()?
        .metadata;
    if header.id != id || header.message_type != MessageType::Response {
        return None;
    }
    if header.truncation {
        return Some(Heard::Part);
    }
    let message = Message::from_vec(bytes).ok()?;
    (message.queries == std::slice::from_ref(question)).then(|| Heard::Whole(Box::new(message)))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    fn question(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
    }

    fn answer(id: u16, name: &str) -> Message {
        let mut message = Message::new(id, MessageType::Response, OpCode::Query);
        message.add_query(question(name));
        message
    }

    #[test]
    fn only_an_answer_to_the_question_with_its_id_is_heard() {
        let heard =
            |message: &Message| read(&message.to_vec().unwrap(), 7, &question("a.example.")).is_some();
        assert!(heard(&answer(7, "a.example.")));
        assert!(heard(&answer(7, "A.EXAMPLE.")));
        assert!(!heard(&answer(8, "a.example.")));
        assert!(!heard(&answer(7, "b.example.")));
        let mut query = answer(7, "a.example.");
        query.metadata.message_type = MessageType::Query;
        assert!(!heard(&query));
        let mut two = answer(7, "a.example.");
        two.add_query(question("b.example."));
        assert!(!heard(&two));
        assert!(read(&[0, 7, 128], 7, &question("a.example.")).is_none());
    }

    #[test]
    fn what_did_not_fit_is_heard_as_a_part_even_when_it_is_cut_anywhere() {
        let mut message = answer(7, "a.example.");
        message.metadata.truncation = true;
        let bytes = message.to_vec().unwrap();
        let cut = bytes.get(..bytes.len() - 3).unwrap();
        assert!(matches!(read(cut, 7, &question("a.example.")), Some(Heard::Part)));
    }
}
