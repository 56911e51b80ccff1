// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::connectioncontext::IpContext;

fn with(r#type: &str, parameters: &[(&str, &str)]) -> Mechanism {
    let mut mechanism = Mechanism::new(LOCAL, r#type);
    for (key, value) in parameters {
        mechanism.set_parameter(key, *value);
    }
    mechanism
}

#[test]
fn a_view_asks_for_the_exact_type_and_no_class() {
    let mut mechanism = Mechanism::new(REMOTE, "KERNEL");
    assert!(Kernel::of(&mechanism).is_some());
    assert!(Vxlan::of(&mechanism).is_none());
    mechanism.r#type = "kernel".into();
    assert!(Kernel::of(&mechanism).is_none());
    assert!(!mechanism.is_local());
    assert!(Noop::of(&Mechanism::new(LOCAL, NOOP)).is_some());
}

#[test]
fn what_is_written_through_a_view_is_on_the_wire_and_read_back() {
    let mut mechanism = Kernel::at("file:///proc/7/ns/net");
    let mut kernel = Kernel::of(&mut mechanism).expect("KERNEL");
    kernel.set_interface_name("nsm-1");
    kernel.set_supports_vlan(true);
    kernel.set_vlan(4094);
    assert_eq!((kernel.interface_name(), kernel.vlan()), ("nsm-1", 4094));
    let expected = with(
        KERNEL,
        &[
            ("inodeURL", "file:///proc/7/ns/net"),
            ("name", "nsm-1"),
            ("supportsVlan", "true"),
            ("vlan", "4094"),
        ],
    );
    assert_eq!(mechanism, expected);
}

#[test]
fn flags_are_read_leniently() {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        let mechanism = with(KERNEL, &[(key::ROUTE_LOCAL_NET, text)]);
        assert!(
            Kernel::of(&mechanism).expect("KERNEL").route_local_net(),
            "{text}"
        );
    }
    for text in [
        "", "0", "f", "F", "FALSE", "false", "False", "yes", "tRUE", " true",
    ] {
        let mechanism = with(KERNEL, &[(key::ROUTE_LOCAL_NET, text)]);
        assert!(
            !Kernel::of(&mechanism).expect("KERNEL").route_local_net(),
            "{text}"
        );
    }
}

#[test]
fn numbers_that_do_not_fit_are_zero() {
    let cases = [
        ("4095", 4095),
        ("4096", 0),
        ("-1", 0),
        ("+1", 0),
        ("1a", 0),
        ("", 0),
        ("007", 7),
    ];
    for (text, id) in cases {
        let mechanism = with(VLAN, &[(key::VLAN_ID, text)]);
        assert_eq!(Vlan::of(&mechanism).expect("VLAN").id(), id, "{text}");
        let mechanism = with(KERNEL, &[(key::KERNEL_VLAN, text)]);
        assert_eq!(Kernel::of(&mechanism).expect("KERNEL").vlan(), id, "{text}");
    }
    let read = |key, text| {
        let mechanism = with(VXLAN, &[(key, text)]);
        let vxlan = Vxlan::of(&mechanism).expect("VXLAN");
        (vxlan.src_port(), vxlan.mtu(), vxlan.vni())
    };
    assert_eq!(read(key::SRC_PORT, "65535"), (65535, 0, 0));
    assert_eq!(read(key::SRC_PORT, "65536"), (0, 0, 0));
    assert_eq!(read(key::MTU, "4294967295"), (0, u32::MAX, 0));
    assert_eq!(read(key::MTU, "4294967296"), (0, 0, 0));
    assert_eq!(read(key::VNI, "16777215"), (0, 0, 0x00FF_FFFF));
    assert_eq!(read(key::VNI, "16777216"), (0, 0, 0));
}

#[test]
fn addresses_that_cannot_be_read_are_absent() {
    let mechanism = with(SRV6, &[(key::SRC_BSID, "fd00::1"), (key::DST_BSID, "here")]);
    let srv6 = Srv6::of(&mechanism).expect("SRV6");
    assert_eq!(srv6.src_bsid(), Some("fd00::1".parse().expect("an address")));
    assert_eq!((srv6.dst_bsid(), srv6.src_host_ip()), (None, None));
}

#[test]
fn parity_of_a_vni_follows_the_addresses_before_translation() {
    let even = |parameters: &[(&str, &str)]| {
        let mechanism = with(VXLAN, parameters);
        Vxlan::of(&mechanism).expect("VXLAN").even_vni()
    };
    assert!(even(&[("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.2")]));
    assert!(even(&[("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.1")]));
    assert!(!even(&[("src_ip", "10.0.0.2"), ("dst_ip", "10.0.0.1")]));
    assert!(
        !even(&[("src_ip", "fd00::"), ("dst_ip", "10.0.0.1")]),
        "as 16 bytes"
    );
    let swapped = [
        ("src_ip", "10.0.0.2"),
        ("dst_ip", "10.0.0.1"),
        ("orig_src_ip", "172.16.0.1"),
        ("orig_dst_ip", "172.16.0.2"),
    ];
    assert!(even(&swapped));
    assert!(even(&[("dst_ip", "10.0.0.1")]), "no source");
    assert!(!even(&[("src_ip", "10.0.0.1")]), "no destination");
    let emptied = [
        ("src_ip", "10.0.0.2"),
        ("dst_ip", "10.0.0.1"),
        ("orig_src_ip", ""),
    ];
    assert!(even(&emptied), "an empty original address hides the current one");
}

/// Conformance case C94 of requests.
#[test]
fn a_random_vni_has_its_parity_and_is_never_zero() {
    let low = with(VXLAN, &[("src_ip", "10.0.0.1"), ("dst_ip", "10.0.0.2")]);
    let high = with(VXLAN, &[("src_ip", "10.0.0.2"), ("dst_ip", "10.0.0.1")]);
    for random in [0, 1, 2, 0x0080_0000, 0x8000_0000, u32::MAX] {
        let even = Vxlan::of(&low).and_then(|vxlan| vxlan.vni_from(random));
        let even = even.expect("both addresses are known");
        assert!(even & 1 == 0 && even != 0 && even < 1 << 24, "{random}: {even}");
        let odd = Vxlan::of(&high).and_then(|vxlan| vxlan.vni_from(random));
        let odd = odd.expect("both addresses are known");
        assert!(odd & 1 == 1 && odd < 1 << 24, "{random}: {odd}");
    }
    let half = with(VXLAN, &[("src_ip", "10.0.0.1")]);
    assert_eq!(Vxlan::of(&half).and_then(|vxlan| vxlan.vni_from(1)), None);
}

#[test]
fn nat_rules_know_interface_and_addresses() {
    let mut mechanism = Kernel::at("file:///proc/7/ns/net");
    let ip = IpContext {
        src_ip_addrs: vec!["172.16.1.101/32".into(), "no address".into()],
        dst_ip_addrs: vec!["172.16.1.100/32".into()],
        ..Default::default()
    };
    let kernel = Kernel::of(&mechanism).expect("KERNEL");
    assert_eq!(
        (kernel.nat_template(), kernel.nat_rules(&ip)),
        (None, Err(NatError::Absent))
    );

    let mut kernel = Kernel::of(&mut mechanism).expect("KERNEL");
    kernel.set_interface_name("nsm-1");
    kernel.set_nat_template(&[
        "-I PREROUTING 1 -p tcp -i {{ .NsmInterfaceName }} -j NSM_PREROUTE",
        "-A NSM_OUTPUT -j DNAT --to-destination {{ index .NsmSrcIPs 0 }}",
        "-A NSM_POSTROUTING -j SNAT --to-source {{index .NsmDstIPs 0}}",
    ]);
    let expected = [
        "-I PREROUTING 1 -p tcp -i nsm-1 -j NSM_PREROUTE",
        "-A NSM_OUTPUT -j DNAT --to-destination 172.16.1.101",
        "-A NSM_POSTROUTING -j SNAT --to-source 172.16.1.100",
    ];
    assert_eq!(kernel.nat_rules(&ip).expect("a good template"), expected);

    kernel.set_nat_template(&["{{ index .NsmSrcIPs 1 }}"]);
    assert!(matches!(kernel.nat_rules(&ip), Err(NatError::Template(_))));
}

#[test]
fn files_are_named_by_url() {
    assert_eq!(
        Memif::at("/run/memif.sock").parameter(key::INODE_URL),
        "file:///run/memif.sock"
    );
    assert_eq!(Vfio::at("/kubepods/1").parameter(key::CGROUP_DIR), "/kubepods/1");
    let mechanism = with(
        VFIO,
        &[(key::IOMMU_GROUP, "18446744073709551615"), (key::VFIO_MAJOR, "x")],
    );
    let vfio = Vfio::of(&mechanism).expect("VFIO");
    assert_eq!((vfio.iommu_group(), vfio.vfio_major()), (u64::MAX, 0));
}
