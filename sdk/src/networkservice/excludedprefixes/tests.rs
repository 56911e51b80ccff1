// SPDX-License-Identifier: Apache-2.0

use nsm_api::connection::Mechanism;
use nsm_api::connectioncontext::Route;
use nsm_api::mechanism::{KERNEL, LOCAL};

use super::*;
use crate::chain;
use crate::core::Chain;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::ipam::Point2Point;

fn client() -> ExcludedPrefixes {
    ExcludedPrefixes::client(&AwarenessGroups::default())
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn endpoint(prefix: &str) -> Point2Point {
    Point2Point::new(&nets(&[prefix])).unwrap()
}

/// Asks on a connection as `request` does, and returns the addresses of both ends.
async fn ask(chain: &Chain<NetworkService>, connection: &Connection) -> Result<Vec<String>> {
    ask_for(chain, connection, &mut request()).await
}

async fn ask_for(
    chain: &Chain<NetworkService>,
    connection: &Connection,
    request: &mut Request,
) -> Result<Vec<String>> {
    chain.request(&connection.first(), request).await?;
    let context = request.connection.ip_context_mut();
    Ok([&context.dst_ip_addrs[..], &context.src_ip_addrs[..]].concat())
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let component = Component::new("test");
    let server = || ExcludedPrefixes::server(&component, "/nowhere/excluded_prefixes.yaml");
    standard_cases::<NetworkService, _>(server, request()).await;
    standard_cases::<NetworkService, _>(client, request()).await;
}

#[tokio::test]
async fn the_prefixes_of_the_file_are_added_merged_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("excluded_prefixes.yaml");
    std::fs::write(
        &path,
        "prefixes:\n- fd00::/64\n- 10.1.0.0/17\n- 10.1.128.0/17\n- 10.0.0.0/8\n",
    )
    .unwrap();
    let element = ExcludedPrefixes::server(&Component::new("test"), &path);
    let chain = before(element, &Probe::new());
    let connection = Connection::new();
    let mut request = request();
    request.connection.ip_context_mut().excluded_prefixes = vec!["1.1.1.1/32".into(), "fd00::/64".into()];
    for ctx in [connection.first(), connection.again()] {
        chain.request(&ctx, &mut request).await.unwrap();
        let excluded = &request.connection.ip_context_mut().excluded_prefixes;
        assert_eq!(*excluded, ["1.1.1.1/32", "fd00::/64", "10.0.0.0/8"]);
    }
}

#[test]
fn the_file_is_read_as_written_and_refused_as_a_whole() {
    assert_eq!(
        parse("prefixes: [fd00::/64, 10.0.0.0/9, 10.128.0.0/9]"),
        Ok(nets(&["10.0.0.0/8", "fd00::/64"]))
    );
    for empty in ["", "prefixes:\n", "prefixes: []", "{}", "# none\n"] {
        assert_eq!(parse(empty), Ok(Vec::new()), "{empty:?}");
    }
    for bad in ["prefixes: [10.0.0.0/8, nonsense]", "prefixes: 7", "- 10.0.0.0/8"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_one_connection_has_the_next_one_excludes_until_it_is_closed() {
    let probe = Probe::new();
    let chain = chain![client(), endpoint("10.0.0.0/24"), Arc::clone(&probe)];
    let (one, two) = (Connection::new(), Connection::new());
    assert_eq!(ask(&chain, &one).await.unwrap(), ["10.0.0.0/32", "10.0.0.1/32"]);
    let mut asked = request();
    asked.connection.ip_context_mut().excluded_prefixes = vec!["1.1.1.1/32".into()];
    ask_for(&chain, &two, &mut asked).await.unwrap();
    assert_eq!(
        asked.connection.ip_context_mut().excluded_prefixes,
        ["1.1.1.1/32"],
        "the caller's list is put back"
    );
    let sent = |at: usize| {
        probe.requests()[at]
            .connection
            .ip_context()
            .unwrap()
            .excluded_prefixes
            .clone()
    };
    assert_eq!(sent(1), ["1.1.1.1/32", "10.0.0.0/31"]);
    chain.close(&one.again(), &mut request()).await.unwrap();
    ask(&chain, &Connection::new()).await.unwrap();
    assert_eq!(sent(2), ["10.0.0.2/31"], "only what the second one has");
}

#[tokio::test]
async fn two_endpoints_with_the_same_prefix_give_different_addresses() {
    let shared = client();
    let Half::Client { groups, shared } = &shared.0 else {
        panic!("it is the client half")
    };
    let to = |endpoint: Point2Point| {
        let half = Half::Client {
            groups: groups.clone(),
            shared: Arc::clone(shared),
        };
        chain![ExcludedPrefixes(half), endpoint]
    };
    let (first, second) = (to(endpoint("10.0.0.0/24")), to(endpoint("10.0.0.0/24")));
    let (one, two) = (Connection::new(), Connection::new());
    assert_eq!(ask(&first, &one).await.unwrap(), ["10.0.0.0/32", "10.0.0.1/32"]);
    assert_eq!(ask(&second, &two).await.unwrap(), ["10.0.0.2/32", "10.0.0.3/32"]);
    assert_eq!(
        ask(&first, &one).await.unwrap(),
        ["10.0.0.0/32", "10.0.0.1/32"],
        "who came first stays"
    );
}

#[tokio::test]
async fn two_that_are_asked_for_at_the_same_time_get_different_addresses() {
    let shared = client();
    let Half::Client { groups, shared } = &shared.0 else {
        panic!("it is the client half")
    };
    let to = || {
        let half = Half::Client {
            groups: groups.clone(),
            shared: Arc::clone(shared),
        };
        let probe = Probe::new();
        let chain = chain![
            ExcludedPrefixes(half),
            endpoint("10.0.0.0/24"),
            Arc::clone(&probe)
        ];
        (chain, probe)
    };
    let ((first, held), (second, _)) = (to(), to());
    let hold = held.hold();
    let (one, two) = (Connection::new(), Connection::new());
    let (slow, fast) = tokio::join!(ask(&first, &one), async {
        let fast = ask(&second, &two).await;
        hold.cancel();
        fast
    });
    assert_eq!(fast.unwrap(), ["10.0.0.0/32", "10.0.0.1/32"]);
    assert_eq!(
        slow.unwrap(),
        ["10.0.0.2/32", "10.0.0.3/32"],
        "it has asked again"
    );
}

#[tokio::test]
async fn c105_an_excluded_address_in_the_answer_is_refused_and_closed() {
    for (excluded, ip) in [
        ("10.0.0.7/32", "10.0.0.7"),
        ("10.0.0.0/16", "10.0.0.7"),
        ("fd00::/8", "fd00::1"),
    ] {
        let probe = Probe::answering(|request: &mut Request| {
            let context = request.connection.ip_context_mut();
            context.src_ip_addrs = vec!["10.0.0.7/32".into(), "fd00::1/128".into()];
            Ok(())
        });
        let mut asked = request();
        asked.connection.ip_context_mut().excluded_prefixes = vec![excluded.into()];
        let error = ask_for(&before(client(), &probe), &Connection::new(), &mut asked)
            .await
            .unwrap_err();
        assert!(
            error
                .text()
                .contains(&format!("IP {ip} is excluded, but it was found in response IPs")),
            "{error}"
        );
        assert_eq!(probe.closes().len(), 1);
        assert_eq!(asked.connection.ip_context_mut().excluded_prefixes, [excluded]);
    }
}

#[tokio::test]
async fn one_that_comes_later_does_not_move_one_that_is_there() {
    let probe = Probe::answering(|request: &mut Request| {
        let context = request.connection.ip_context_mut();
        if context.src_ip_addrs.is_empty() {
            let excluded = context.excluded_prefixes.contains(&"10.0.0.77/32".to_string());
            context.src_ip_addrs = vec![if excluded { "10.0.0.1/24" } else { "10.0.0.77/32" }.into()];
        }
        Ok(())
    });
    let chain = before(client(), &probe);
    let (one, two) = (Connection::new(), Connection::new());
    let mut first = request();
    ask_for(&chain, &one, &mut first).await.unwrap();
    assert_eq!(ask(&chain, &two).await.unwrap(), ["10.0.0.1/24"]);
    chain.request(&one.again(), &mut first).await.unwrap();
    let seen = probe.requests();
    let excluded = &seen[2].connection.ip_context().unwrap().excluded_prefixes;
    assert!(
        excluded.is_empty(),
        "the later one's prefix would take the first one's address away"
    );
}

#[tokio::test]
async fn hosts_behind_routes_and_what_the_endpoint_excludes_are_excluded_too_but_not_what_we_told_it() {
    let probe = Probe::answering(|request: &mut Request| {
        let context = request.connection.ip_context_mut();
        if !context.excluded_prefixes.contains(&"172.16.0.0/16".to_string()) {
            context.excluded_prefixes.push("172.16.0.0/16".into());
            context.src_routes = vec![
                Route::to("10.0.0.9/32".parse().unwrap()),
                Route::to("10.5.0.0/16".parse().unwrap()),
            ];
        }
        Ok(())
    });
    let chain = before(client(), &probe);
    let connections = [Connection::new(), Connection::new(), Connection::new()];
    let mut asked = request();
    asked.connection.ip_context_mut().excluded_prefixes = vec!["1.1.1.1/32".into()];
    ask_for(&chain, &connections[0], &mut asked).await.unwrap();
    ask(&chain, &connections[1]).await.unwrap();
    let sent = |at: usize| {
        probe.requests()[at]
            .connection
            .ip_context()
            .map(|context| context.excluded_prefixes.clone())
    };
    assert_eq!(sent(1).unwrap(), ["10.0.0.9/32", "172.16.0.0/16"]);
    chain.close(&connections[0].again(), &mut asked).await.unwrap();
    ask(&chain, &connections[2]).await.unwrap();
    assert_eq!(
        sent(2).unwrap_or_default(),
        Vec::<String>::new(),
        "nothing of the first one lives on in the second"
    );
}

#[tokio::test]
async fn what_one_endpoint_excludes_is_told_to_the_others_but_not_enforced() {
    let probe = Probe::answering(|request: &mut Request| {
        let context = request.connection.ip_context_mut();
        context.excluded_prefixes.push("10.96.0.0/12".into());
        Ok(())
    });
    let chain = before(client(), &probe);
    let connections = [Connection::new(), Connection::new()];
    ask(&chain, &connections[0]).await.unwrap();
    probe.answer(|request: &mut Request| {
        let context = request.connection.ip_context_mut();
        assert_eq!(context.excluded_prefixes, ["10.96.0.0/12"]);
        context.dst_ip_addrs = vec!["10.96.0.1/32".into()];
        Ok(())
    });
    ask(&chain, &connections[1])
        .await
        .expect("a service of the cluster may be meant");
}

fn for_service(service: &str, name: &str) -> Request {
    let mut request = request();
    request.connection.network_service = service.into();
    request.connection.labels = [("app".into(), "a".into()), ("podName".into(), "nsc".into())].into();
    let mut mechanism = Mechanism::new(LOCAL, KERNEL);
    mechanism.set_parameter("name", name);
    request.mechanism_preferences = vec![mechanism];
    request
}

#[tokio::test]
async fn connections_of_one_awareness_group_may_have_the_same_addresses() {
    let groups = AwarenessGroups::parse("[kernel://one?app=a,kernel://two/nsm-2], [kernel://three]").unwrap();
    let member = |service: &str, name: &str| groups.of(&for_service(service, name));
    assert_eq!(
        (member("one", "x"), member("two", "nsm-2"), member("three", "")),
        (Some(0), Some(0), Some(1))
    );
    assert_eq!((member("two", "nsm-3"), member("four", "x")), (None, None));

    let probe = Probe::answering(|request: &mut Request| {
        request.connection.ip_context_mut().src_ip_addrs = vec!["10.0.0.1/32".into()];
        Ok(())
    });
    let chain = before(ExcludedPrefixes::client(&groups), &probe);
    let connections: [_; 3] = std::array::from_fn(|_| Connection::new());
    let ask = async |at: usize, service: &str| {
        ask_for(&chain, &connections[at], &mut for_service(service, "nsm-2"))
            .await
            .map(drop)
    };
    ask(0, "one").await.unwrap();
    ask(1, "two").await.expect("they are in one group");
    assert_eq!(ask(2, "three").await.unwrap_err().reason(), "excluded-address");
}

#[test]
fn groups_that_cannot_be_read_are_refused() {
    assert_eq!(AwarenessGroups::parse(" ").unwrap(), AwarenessGroups::default());
    for bad in [
        "kernel://one",
        "[kernel://one",
        "[kernel://one],",
        "[kernel://one][kernel://two]",
        "[warp://one]",
        "[a b]",
    ] {
        assert_eq!(
            AwarenessGroups::parse(bad).unwrap_err().reason(),
            "bad-awareness-groups",
            "{bad}"
        );
    }
}
