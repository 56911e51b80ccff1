// SPDX-License-Identifier: Apache-2.0
//! Holds the `.proto` files to the contract: every name, number and type that travels, and every method.

use nsm_api::FILE_DESCRIPTOR_SET;
use prost_reflect::{Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor};

/// Messages of connections, of the registry, of address management, and SPIFFE's.
const MESSAGES: &str = "
networkservice.NetworkServiceRequest
  1 connection connection.Connection
  2 mechanism_preferences repeated connection.Mechanism
connection.Connection
  1 id string
  2 network_service string
  3 mechanism connection.Mechanism
  4 context connectioncontext.ConnectionContext
  5 labels map<string, string>
  6 path connection.Path
  7 network_service_endpoint_name string
  8 payload string
  9 state connection.State
connection.Mechanism
  1 cls string
  2 type string
  3 parameters map<string, string>
connection.PathSegment
  1 name string
  2 id string
  3 token string
  4 expires google.protobuf.Timestamp
  5 metrics map<string, string>
connection.Path
  1 index uint32
  2 path_segments repeated connection.PathSegment
connection.ConnectionEvent
  1 type connection.ConnectionEventType
  2 connections map<string, connection.Connection>
connection.MonitorScopeSelector
  1 path_segments repeated connection.PathSegment
  2 network_services repeated string
connectioncontext.ConnectionContext
  1 ip_context connectioncontext.IPContext
  2 dns_context connectioncontext.DNSContext
  3 ethernet_context connectioncontext.EthernetContext
  4 extra_context map<string, string>
  5 MTU uint32
connectioncontext.IPContext
  1 src_ip_addrs repeated string
  2 dst_ip_addrs repeated string
  3 src_ip_required bool
  4 dst_ip_required bool
  5 src_routes repeated connectioncontext.Route
  6 dst_routes repeated connectioncontext.Route
  7 excluded_prefixes repeated string
  8 ip_neighbors repeated connectioncontext.IpNeighbor
  9 extra_prefix_request repeated connectioncontext.ExtraPrefixRequest
  10 extra_prefixes repeated string
  11 policies repeated connectioncontext.PolicyRoute
connectioncontext.IpNeighbor
  1 ip string
  2 hardware_address string
connectioncontext.ExtraPrefixRequest
  1 addr_family connectioncontext.IpFamily
  2 prefix_len uint32
  3 required_number uint32
  4 requested_number uint32
connectioncontext.IpFamily
  1 family connectioncontext.IpFamily.Family
connectioncontext.PolicyRoute
  1 from string
  2 proto string
  3 dst_port string
  4 src_port string
  5 routes repeated connectioncontext.Route
connectioncontext.Route
  1 prefix string
  2 nextHop string
connectioncontext.DNSContext
  1 configs repeated connectioncontext.DNSConfig
connectioncontext.DNSConfig
  1 dns_server_ips repeated string
  2 search_domains repeated string
connectioncontext.EthernetContext
  1 src_mac string
  2 dst_mac string
  3 vlan_tag int32
registry.NetworkService
  1 name string
  2 payload string
  3 matches repeated registry.Match
  4 path_ids repeated string
registry.Match
  1 source_selector map<string, string>
  2 routes repeated registry.Destination
  3 fallthrough bool
  4 metadata registry.Metadata
registry.Metadata
  1 labels map<string, string>
registry.Destination
  1 destination_selector map<string, string>
  2 weight uint32
registry.NetworkServiceEndpoint
  1 name string
  2 network_service_names repeated string
  3 network_service_labels map<string, registry.NetworkServiceLabels>
  4 url string
  5 expiration_time google.protobuf.Timestamp
  6 initial_registration_time google.protobuf.Timestamp
  7 path_ids repeated string
registry.NetworkServiceLabels
  1 labels map<string, string>
registry.NetworkServiceQuery
  1 network_service registry.NetworkService
  2 watch bool
registry.NetworkServiceResponse
  1 network_service registry.NetworkService
  2 deleted bool
registry.NetworkServiceEndpointQuery
  1 network_service_endpoint registry.NetworkServiceEndpoint
  2 watch bool
registry.NetworkServiceEndpointResponse
  1 network_service_endpoint registry.NetworkServiceEndpoint
  2 deleted bool
ipam.PrefixRequest
  1 type ipam.Type
  2 prefix string
  3 exclude_prefixes repeated string
ipam.PrefixResponse
  2 prefix string
  3 exclude_prefixes repeated string
X509SVIDRequest
X509SVIDResponse
  1 svids repeated X509SVID
  2 crl repeated bytes
  3 federated_bundles map<string, bytes>
X509SVID
  1 spiffe_id string
  2 x509_svid bytes
  3 x509_svid_key bytes
  4 bundle bytes
  5 hint string
X509BundlesRequest
X509BundlesResponse
  1 crl repeated bytes
  2 bundles map<string, bytes>
";

const ENUMS: &str = "
connection.State
  0 UP
  1 DOWN
  2 REFRESH_REQUESTED
  3 RESELECT_REQUESTED
connection.ConnectionEventType
  0 INITIAL_STATE_TRANSFER
  1 UPDATE
  2 DELETE
connectioncontext.IpFamily.Family
  0 IPV4
  1 IPV6
ipam.Type
  0 UNDEFINED
  1 ALLOCATE
  2 DELETE
";

/// A call and what it answers; `*` marks a stream.
const METHODS: &str = "
/networkservice.NetworkService/Request networkservice.NetworkServiceRequest connection.Connection
/networkservice.NetworkService/Close connection.Connection google.protobuf.Empty
/connection.MonitorConnection/MonitorConnections connection.MonitorScopeSelector *connection.ConnectionEvent
/registry.NetworkServiceRegistry/Register registry.NetworkService registry.NetworkService
/registry.NetworkServiceRegistry/Find registry.NetworkServiceQuery *registry.NetworkServiceResponse
/registry.NetworkServiceRegistry/Unregister registry.NetworkService google.protobuf.Empty
/registry.NetworkServiceEndpointRegistry/Register registry.NetworkServiceEndpoint registry.NetworkServiceEndpoint
/registry.NetworkServiceEndpointRegistry/Find registry.NetworkServiceEndpointQuery *registry.NetworkServiceEndpointResponse
/registry.NetworkServiceEndpointRegistry/Unregister registry.NetworkServiceEndpoint google.protobuf.Empty
/ipam.IPAM/ManagePrefixes *ipam.PrefixRequest *ipam.PrefixResponse
/SpiffeWorkloadAPI/FetchX509SVID X509SVIDRequest *X509SVIDResponse
/SpiffeWorkloadAPI/FetchX509Bundles X509BundlesRequest *X509BundlesResponse
";

fn pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("a set of descriptors")
}

/// The paragraphs of a table, sorted: its order is for people.
fn paragraphs(table: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    for line in table.trim().lines() {
        match paragraphs.last_mut().filter(|_| line.starts_with(' ')) {
            Some(paragraph) => {
                paragraph.push('\n');
                paragraph.push_str(line);
            }
            None => paragraphs.push(line.into()),
        }
    }
    paragraphs.sort();
    paragraphs
}

fn kind(field: &FieldDescriptor) -> String {
    let kind = |field: &FieldDescriptor| {
        let kind = field.kind();
        let message = kind.as_message().map(|message| message.full_name().to_string());
        let kind_of_enum = || kind.as_enum().map(|kind| kind.full_name().to_string());
        message
            .or_else(kind_of_enum)
            .unwrap_or_else(|| format!("{kind:?}"))
    };
    if let Some(entry) = field.kind().as_message().filter(|_| field.is_map()) {
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        return format!("map<{}, {}>", kind(&key), kind(&value));
    }
    let repeated = if field.is_list() { "repeated " } else { "" };
    format!("{repeated}{}", kind(field))
}

fn described_message(message: &MessageDescriptor) -> String {
    let fields = message
        .fields()
        .map(|field| format!("\n  {} {} {}", field.number(), field.name(), kind(&field)));
    message.full_name().to_string() + &fields.collect::<String>()
}

fn described_enum(kind: &EnumDescriptor) -> String {
    let values = kind
        .values()
        .map(|value| format!("\n  {} {}", value.number(), value.name()));
    kind.full_name().to_string() + &values.collect::<String>()
}

/// Whether a package is protobuf's own, or of what programs are told of and not of what a mesh says.
fn is_foreign(package: &str) -> bool {
    package == "google.protobuf" || package.starts_with("opentelemetry.")
}

#[test]
fn messages_have_the_fields_of_the_contract() {
    let messages = pool().all_messages().collect::<Vec<_>>();
    let ours = messages
        .iter()
        .filter(|message| !is_foreign(message.package_name()) && !message.is_map_entry());
    let mut described: Vec<String> = ours.map(described_message).collect();
    described.sort();
    assert_eq!(described, paragraphs(MESSAGES));
}

#[test]
fn enums_have_the_values_of_the_contract() {
    let enums = pool().all_enums().collect::<Vec<_>>();
    let ours = enums.iter().filter(|kind| !is_foreign(kind.package_name()));
    let mut described: Vec<String> = ours.map(described_enum).collect();
    described.sort();
    assert_eq!(described, paragraphs(ENUMS));
}

#[test]
fn methods_are_those_of_the_contract() {
    let mut described = Vec::new();
    for service in pool()
        .services()
        .filter(|service| !is_foreign(service.package_name()))
    {
        for method in service.methods() {
            let asked = if method.is_client_streaming() { "*" } else { "" };
            let answered = if method.is_server_streaming() { "*" } else { "" };
            described.push(format!(
                "/{}/{} {asked}{} {answered}{}",
                service.full_name(),
                method.name(),
                method.input().full_name(),
                method.output().full_name()
            ));
        }
    }
    described.sort();
    assert_eq!(described, paragraphs(METHODS));
}

/// Only fields that hold a message tell an absent value from an empty one.
#[test]
fn fields_are_those_of_proto3_without_optional() {
    for message in pool()
        .all_messages()
        .filter(|message| !is_foreign(message.package_name()))
    {
        for field in message.fields() {
            let name = field.full_name();
            assert_ne!(field.cardinality(), Cardinality::Required, "{name}");
            let holds_message = field.kind().as_message().is_some() && !field.is_list() && !field.is_map();
            assert_eq!(field.supports_presence(), holds_message, "{name}");
        }
    }
}

/// Names of generated services are what gRPC clients of other languages call.
#[test]
fn generated_services_have_the_names_of_the_contract() {
    use nsm_api::connection::monitor_connection_server::SERVICE_NAME as MONITOR;
    use nsm_api::networkservice::network_service_server::SERVICE_NAME as NETWORK_SERVICE;
    use nsm_api::registry::network_service_endpoint_registry_server::SERVICE_NAME as ENDPOINTS;
    use nsm_api::registry::network_service_registry_server::SERVICE_NAME as SERVICES;
    use nsm_api::workload::spiffe_workload_api_server::SERVICE_NAME as WORKLOAD;
    for name in [MONITOR, NETWORK_SERVICE, ENDPOINTS, SERVICES, WORKLOAD] {
        assert!(METHODS.contains(&format!("\n/{name}/")), "{name}");
    }
}
