// SPDX-License-Identifier: Apache-2.0
//! Two tunnels that hand each other what comes out of them: the kernel redirects every packet of one into the other,
//! before anything else of the node sees it (tc-mirred(8)).
//!
//! **Guarantees**: what is joined already is not touched. What joins two devices goes with either of them.
//! **Cost**: one message to the kernel, and no process of ours for a packet.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Selector,
    TcU32SelectorFlags,
};
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::tunnel::{RemoteWire, Transit};
use rustix::io::Errno;
use tokio::time::Instant;
use tonic::Code;

use crate::answer::Refusal;
use crate::asked::Asked;
use crate::kernel::{Kernel, ask};
use crate::leave;
use crate::netlink::Request;
use crate::station::Station;
use crate::veth;

/// The qdisc of what comes in, which a device has once.
const INGRESS: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};

/// The filter in it, first and only of its priority: with a number of its own it is replaced, not added again.
const FILTER: u32 = 0x8000_0001;

/// Priority 1, for packets of every protocol (`ETH_P_ALL`, in the byte order of the network).
const EVERYTHING: u32 = 1 << 16 | 0x0003_u16.to_be() as u32;

/// A device that is there: the number of its record, and its index.
#[derive(Clone, Copy)]
struct Device {
    serial: u64,
    index: u32,
}

impl Kernel {
    /// Joins the tunnels of `transit`, as [`Tunnels::join`](nsm_sdk::dataplane::tunnel::Tunnels::join) says.
    pub(crate) async fn redirect(&self, transit: &Transit, deadline: Instant) -> Result<()> {
        if self.is_joined(&self.devices(transit)?) {
            return Ok(());
        }
        let connection = &transit.client.id.connection;
        let claim = self.shared.claim(connection, deadline).await?;
        let devices = self.devices(transit)?;
        let netns = transit.client.interface.netns.clone();
        let what = format!("join the tunnels of connection {connection}");
        let shared = self.shared.clone();
        ask(self.pool(), deadline, &what, move |station| {
            let _claim = claim;
            let netns = station.open(&netns)?;
            execute(station, &netns, devices)?;
            let mut state = shared.state();
            for (one, other) in both_ways(devices) {
                if let Some(record) = state.get(one.serial) {
                    record.joined = Some(other.index);
                }
            }
            Ok(())
        })
        .await
    }

    /// The devices of both tunnels.
    fn devices(&self, transit: &Transit) -> Result<[Device; 2]> {
        Ok([self.device(&transit.client)?, self.device(&transit.endpoint)?])
    }

    fn device(&self, wire: &RemoteWire) -> Result<Device> {
        let serial = leave::recorded(&self.shared, &Asked::half(wire));
        let found = serial.and_then(|serial| {
            let mut state = self.shared.state();
            let index = state.get(serial)?.ends.first()?.index;
            Some(Device { serial, index })
        });
        found.ok_or_else(|| {
            let text = format!(
                "the tunnel {} is not there, so that it cannot be joined to another",
                wire.id
            );
            Error::unavailable("interface-gone", text)
        })
    }

    fn is_joined(&self, devices: &[Device; 2]) -> bool {
        let mut state = self.shared.state();
        both_ways(*devices).into_iter().all(|(one, other)| {
            let record = state.get(one.serial);
            record.is_some_and(|record| record.joined == Some(other.index))
        })
    }
}

fn both_ways([one, other]: [Device; 2]) -> [(Device, Device); 2] {
    [(one, other), (other, one)]
}

fn execute(station: &mut Station, netns: &crate::netns::Netns, devices: [Device; 2]) -> Result<()> {
    let requests = both_ways(devices)
        .into_iter()
        .flat_map(|(from, to)| [ingress(from.index), filter(from.index, to.index)]);
    let mut socket = station.socket(netns)?;
    let answers = socket
        .batch(requests.collect())
        .map_err(|error| veth::broken(&netns.id(), &error))?;
    for answer in answers {
        match answer {
            // The qdisc of an earlier life: its filter is replaced.
            Err(refusal) if refusal.errno != Errno::EXIST => return Err(refused(devices, &refusal)),
            _ => {}
        }
    }
    Ok(())
}

fn refused(devices: [Device; 2], refusal: &Refusal) -> Error {
    let what = format!(
        "redirect packets between interfaces {} and {}",
        devices[0].index, devices[1].index
    );
    match refusal.errno {
        Errno::NOENT | Errno::OPNOTSUPP => Error::new(
            Code::FailedPrecondition,
            "no-transit",
            format!(
                "cannot {what}: {refusal}; wires from one node by this one to a third need sch_ingress, cls_u32 and \
                 act_mirred of the kernel"
            ),
        ),
        Errno::NODEV => Error::unavailable("interface-gone", format!("cannot {what}: {refusal}")),
        _ => veth::refused(&what, refusal),
    }
}

/// A message about what comes into interface `index`.
fn message(index: u32, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).unwrap_or(i32::MAX);
    message.attributes.push(TcAttribute::Kind(kind.into()));
    message
}

/// The request for a place for filters of what comes into interface `index`.
fn ingress(index: u32) -> Request {
    let mut message = message(index, "ingress");
    message.header.handle = INGRESS;
    message.header.parent = TcHandle::INGRESS;
    Request::create(RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// The request for the filter that sends out by interface `to` all that comes into interface `index`.
fn filter(index: u32, to: u32) -> Request {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind("mirred".into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    // Nothing to compare: every packet is one of its.
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    let mut message = message(index, "u32");
    message.header.handle = FILTER.into();
    message.header.parent = INGRESS;
    message.header.info = EVERYTHING;
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action])),
    ]));
    Request::replace(RouteNetlinkMessage::NewTrafficFilter(message))
}
