// SPDX-License-Identifier: Apache-2.0
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record};
use nsm_sdk::core::Task;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::upstream::read_message;

/// A server that answers by UDP as it is told, and by TCP with everything.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: [Task; 2],
}

impl Server {
    /// What it sends for each message, and the bytes that it sends by TCP, where it leaves connections open.
    async fn start(
        component: &Component,
        udp: impl Fn(&Message) -> Vec<Message> + Send + 'static,
        tcp: impl Fn(&Message) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let udp = component.spawn("udp", async move {
            let mut buffer = vec![0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                for answer in udp(&Message::from_vec(&buffer[..length]).unwrap()) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        let tcp = component.spawn("tcp", async move {
            let mut streams = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap();
                stream.write_all(&tcp(&asked)).await.unwrap();
                streams.push(stream);
            }
        });
        Self {
            address,
            asked,
            _tasks: [udp, tcp],
        }
    }

    async fn by_udp(component: &Component, udp: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> Self {
        Self::start(component, udp, |asked| {
            framed(&coded(asked, ResponseCode::Refused).to_vec().unwrap())
        })
        .await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// A message as it is sent by TCP.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

/// Says that it did not fit.
fn part(asked: &Message) -> Vec<Message> {
    let mut answer = coded(asked, ResponseCode::NoError);
    answer.metadata.truncation = true;
    vec![answer]
}

fn coded(asked: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    answer.queries.clone_from(&asked.queries);
    answer.metadata.response_code = code;
    answer
}

fn with(asked: &Message, records: usize) -> Message {
    let mut answer = coded(asked, ResponseCode::NoError);
    for number in 0..records {
        let data = RData::A(A::new(10, 0, (number >> 8) as u8, number as u8));
        answer.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, data));
    }
    answer
}

/// An answer with so many addresses, each by a reference to the name of the question.
fn many(asked: &Message, records: u16) -> Vec<u8> {
    let mut bytes = coded(asked, ResponseCode::NoError).to_vec().unwrap();
    bytes[6..8].copy_from_slice(&records.to_be_bytes());
    for number in 0..records {
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9]);
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

fn nothing(asked: &Message) -> Message {
    let mut answer = coded(asked, ResponseCode::NXDomain);
    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 60);
    answer.add_authority(Record::from_rdata(Name::root(), 60, RData::SOA(soa)));
    answer
}

fn query(name: &str) -> Message {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn resolve(component: &Component, servers: &[&Server]) -> Resolve {
    let always = servers.iter().map(|server| server.address).collect();
    Resolve::new(component.clone(), Table::new([], always))
}

async fn answer(resolve: &Resolve, message: &Message) -> Message {
    reply(resolve, message).await.message
}

async fn reply(resolve: &Resolve, message: &Message) -> Reply {
    match resolve.hear(&message.to_vec().unwrap()) {
        Heard::Question(question) => resolve.ask(&question).await,
        Heard::Reply(reply) => *reply,
        Heard::Nothing => panic!("it was not heard"),
    }
}

#[tokio::test]
async fn an_answer_is_given_again_as_long_as_it_holds_with_the_callers_own_id_and_case() {
    let component = Component::new("nsc");
    let server = Server::by_udp(&component, |asked| vec![with(asked, 2)]).await;
    let resolve = resolve(&component, &[&server]);
    let first = answer(&resolve, &query("a.example.")).await;
    assert_eq!((first.metadata.id, first.answers.len()), (7, 2));
    assert!(first.metadata.recursion_available);
    let mut other = query("A.EXAMPLE.");
    other.metadata.id = 8;
    let second = answer(&resolve, &other).await;
    assert_eq!((second.metadata.id, second.answers.len()), (8, 2));
    assert!(second.queries[0].name().eq_case(other.queries[0].name()));
    assert_eq!(server.asked(), 1);
    resolve.go_by(Table::new([], vec![server.address]));
    answer(&resolve, &query("a.example.")).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn that_a_name_is_not_there_is_an_answer_and_is_kept() {
    let component = Component::new("nsc");
    let server = Server::by_udp(&component, |asked| vec![nothing(asked)]).await;
    let other = Server::by_udp(&component, |asked| vec![with(asked, 1)]).await;
    let resolve = resolve(&component, &[&server, &other]);
    for _ in 0..2 {
        let answer = answer(&resolve, &query("a.example.")).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
    }
    assert_eq!((server.asked(), other.asked()), (1, 0));
}

#[tokio::test]
async fn a_silent_server_gives_way_to_the_next_within_its_patience_and_is_asked_last_then() {
    let component = Component::new("nsc");
    let silent = Server::by_udp(&component, |_| vec![]).await;
    let other = Server::by_udp(&component, |asked| vec![with(asked, 1)]).await;
    let resolve = resolve(&component, &[&silent, &other]);
    let began = Instant::now();
    assert_eq!(answer(&resolve, &query("a.example.")).await.answers.len(), 1);
    assert!(began.elapsed() < PATIENCE * 2);
    assert_eq!(answer(&resolve, &query("b.example.")).await.answers.len(), 1);
    assert_eq!((silent.asked(), other.asked()), (1, 2));
}

#[tokio::test]
async fn when_all_are_silent_it_fails_in_time() {
    let component = Component::new("nsc");
    let silent = Server::by_udp(&component, |_| vec![]).await;
    let resolve = resolve(&component, &[&silent]);
    let began = Instant::now();
    let answer = answer(&resolve, &query("a.example.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() <= TO_ANSWER);
    assert_eq!(silent.asked(), ROUNDS);
}

#[tokio::test]
async fn a_server_without_a_word_gives_way_and_is_believed_when_it_is_the_only_one() {
    let component = Component::new("nsc");
    let refuses = Server::by_udp(&component, |asked| vec![coded(asked, ResponseCode::Refused)]).await;
    let other = Server::by_udp(&component, |asked| vec![with(asked, 1)]).await;
    let both = resolve(&component, &[&refuses, &other]);
    assert_eq!(answer(&both, &query("a.example.")).await.answers.len(), 1);
    let alone = resolve(&component, &[&refuses]);
    let answer = answer(&alone, &query("a.example.")).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn lies_are_not_heard() {
    let component = Component::new("nsc");
    let liar = Server::by_udp(&component, |asked| {
        let (mut id, mut name) = (with(asked, 3), with(asked, 3));
        id.metadata.id ^= 1;
        name.queries = query("b.example.").queries;
        vec![id, name, with(asked, 1)]
    })
    .await;
    let resolve = resolve(&component, &[&liar]);
    assert_eq!(answer(&resolve, &query("a.example.")).await.answers.len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_for_by_tcp_and_cut_for_who_asks_by_udp() {
    let component = Component::new("nsc");
    // As many as fit in a message of 64 KiB.
    let server = Server::start(&component, part, |asked| framed(&many(asked, 4090))).await;
    let resolve = resolve(&component, &[&server]);
    let whole = reply(&resolve, &query("a.example.")).await;
    let sent = bytes(&whole, u16::MAX.into()).unwrap();
    assert!(sent.len() > 65_000);
    let sent = Message::from_vec(&sent).unwrap();
    assert_eq!((sent.metadata.id, sent.answers.len()), (7, 4090));
    assert!(!sent.metadata.truncation);
    let heard = query("a.example.").to_vec().unwrap();
    let cut = datagram(&whole, &heard).unwrap();
    assert!(cut.len() <= 512);
    assert!(Message::from_vec(&cut).unwrap().metadata.truncation);
}

#[tokio::test]
async fn a_server_that_stops_within_its_64_kib_gives_way_to_the_next() {
    let component = Component::new("nsc");
    let stops = Server::start(&component, part, |asked| {
        let mut whole = framed(&many(asked, 4090));
        whole.truncate(9000);
        whole
    })
    .await;
    let other = Server::by_udp(&component, |asked| vec![with(asked, 1)]).await;
    let resolve = resolve(&component, &[&stops, &other]);
    let began = Instant::now();
    assert_eq!(answer(&resolve, &query("a.example.")).await.answers.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_comes_by_tcp_is_believed_no_more_than_what_comes_by_udp() {
    let component = Component::new("nsc");
    for lie in [
        |asked: &Message| {
            let mut other = with(asked, 3);
            other.metadata.id ^= 1;
            framed(&other.to_vec().unwrap())
        },
        |asked: &Message| framed(&many(asked, 9)[..20]),
        |_: &Message| framed(&[0xff; 65_535]),
    ] {
        let liar = Server::start(&component, part, lie).await;
        let other = Server::by_udp(&component, |asked| vec![with(asked, 1)]).await;
        let resolve = resolve(&component, &[&liar, &other]);
        assert_eq!(answer(&resolve, &query("a.example.")).await.answers.len(), 1);
    }
}

#[tokio::test]
async fn a_flood_of_lies_holds_nobody_up_for_longer_than_silence() {
    let component = Component::new("nsc");
    let liar = Server::by_udp(&component, |asked| {
        let mut lie = with(asked, 1);
        lie.metadata.id ^= 1;
        vec![lie; 500]
    })
    .await;
    let other = Server::by_udp(&component, |asked| vec![with(asked, 2)]).await;
    let resolve = resolve(&component, &[&liar, &other]);
    let began = Instant::now();
    assert_eq!(answer(&resolve, &query("a.example.")).await.answers.len(), 2);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_caller_gets_by_udp_as_much_as_it_says_that_it_takes() {
    let mut asked = query("a.example.");
    let reply = with(&asked, 50);
    let sent =
        |asked: &Message| datagram(&answered(asked, &reply, 0).into(), &asked.to_vec().unwrap()).unwrap();
    assert!(Message::from_vec(&sent(&asked)).unwrap().metadata.truncation);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    asked.set_edns(edns);
    let whole = Message::from_vec(&sent(&asked)).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (50, false));
    assert!(whole.edns.is_some());
}

#[tokio::test]
async fn what_is_no_question_is_answered_so_or_not_at_all() {
    let component = Component::new("nsc");
    let resolve = resolve(&component, &[]);
    let code = |message: &Message| match resolve.hear(&message.to_vec().unwrap()) {
        Heard::Reply(reply) => Some(reply.message.metadata.response_code),
        _ => None,
    };
    let mut response = query("a.");
    response.metadata.message_type = MessageType::Response;
    assert_eq!(code(&response), None);
    let mut status = query("a.");
    status.metadata.op_code = OpCode::Status;
    assert_eq!(code(&status), Some(ResponseCode::NotImp));
    let mut two = query("a.");
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two), Some(ResponseCode::FormErr));
    let mut transfer = query("a.");
    transfer.queries[0].set_query_type(RecordType::AXFR);
    assert_eq!(code(&transfer), Some(ResponseCode::Refused));
    assert!(matches!(resolve.hear(b"short"), Heard::Nothing));
    let cut = query("a.example.").to_vec().unwrap();
    assert!(matches!(resolve.hear(&cut[..cut.len() - 1]), Heard::Reply(reply)
        if reply.message.metadata.response_code == ResponseCode::FormErr && reply.message.metadata.id == 7));
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure_and_not_a_name_that_is_not_there() {
    let component = Component::new("nsc");
    let reply = answer(&resolve(&component, &[]), &query("a.example.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}
