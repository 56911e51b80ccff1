// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.zx2c4.com/wireguard/device"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"
)

// plan is what a wire should be: two ends on this node, or one and a tunnel to another node.
type plan struct {
	ends   []end
	tunnel *tunnel
	mtu    int
}

// tunnel is the way to the other node, over UDP.
type tunnel struct {
	local, remote net.IP
	port, vni     int
	// keys are there when it is by WireGuard, and by VXLAN it is otherwise.
	keys *keys
	// isAsked says whether the other node has asked for it.
	isAsked bool
}

// wire is what was made of a plan.
type wire struct {
	plan
	spaces []netns.NsHandle
	// device is the tunnel, when it is by WireGuard.
	device *device.Device
}

// newPlan plans the wire of a connection of which we know what the next hop has chosen.
func newPlan(ctx context.Context, connection *networkservice.Connection, next *networkservice.Mechanism) (*plan, error) {
	ip := connection.GetContext().GetIpContext()
	first := connection.GetPath().GetPathSegments()[0].GetId()
	p := &plan{mtu: int(connection.GetContext().GetMTU())}
	sides := []struct {
		mechanism *networkservice.Mechanism
		mark      string
		addresses []string
		routes    []*networkservice.Route
	}{
		{connection.GetMechanism(), "server-" + first, ip.GetSrcIpAddrs(), ip.GetSrcRoutes()},
		{next, "client-" + first, ip.GetDstIpAddrs(), ip.GetDstRoutes()},
	}
	for i, side := range sides {
		if mechanism := vxlan.ToMechanism(side.mechanism); mechanism != nil {
			p.tunnel = newTunnel(mechanism, i == 0)
			continue
		}
		if mechanism := wireguard.ToMechanism(side.mechanism); mechanism != nil {
			var err error
			if p.tunnel, err = newSecretTunnel(ctx, mechanism, i == 0); err != nil {
				return nil, err
			}
			continue
		}
		mechanism := kernel.ToMechanism(side.mechanism)
		if mechanism == nil {
			return nil, fmt.Errorf("nothing can be made of %s", side.mechanism)
		}
		made, err := newEnd(mechanism, side.mark, side.addresses, side.routes)
		if err != nil {
			return nil, err
		}
		p.ends = append(p.ends, *made)
	}
	if len(p.ends) == 0 || (len(p.ends) == 2) != (p.tunnel == nil) {
		return nil, fmt.Errorf("from %s to %s is no wire of this node", connection.GetMechanism(), next)
	}
	return p, nil
}

// newTunnel plans a tunnel from the mechanism that both nodes have filled; the one that is asked is at its destination.
func newTunnel(mechanism *vxlan.Mechanism, isAsked bool) *tunnel {
	t := &tunnel{
		local:  mechanism.SrcIP(),
		remote: mechanism.DstIP(),
		port:   int(mechanism.DstPort()),
		vni:    int(mechanism.VNI()),
	}
	if isAsked {
		t.local, t.remote = t.remote, t.local
	}
	return t
}

// is says whether the wire is what is wanted, by whichever files its namespaces are known now.
func (w *wire) is(wanted *plan) bool {
	now := *wanted
	now.ends = append([]end(nil), wanted.ends...)
	for i := range min(len(now.ends), len(w.ends)) {
		now.ends[i].space = w.ends[i].space
	}
	return reflect.DeepEqual(w.plan, now)
}

// build makes the links, each in its place, instead of those that another process has left of them.
func (p *plan) build() (_ *wire, err error) {
	w := &wire{plan: *p}
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	for _, e := range p.ends {
		space, err := netns.GetFromPath(e.space)
		if err != nil {
			return nil, err
		}
		w.spaces = append(w.spaces, space)
		if err := e.removeLeftover(space); err != nil {
			return nil, err
		}
	}
	if w.tunnel != nil && w.tunnel.keys != nil {
		err = w.openTunnel(w.spaces[0])
	} else {
		err = netlink.LinkAdd(w.link())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the link %s: %w", p.ends[0].name, err)
	}
	for i, e := range p.ends {
		err = errors.Join(err, e.set(w.spaces[i]))
	}
	if err == nil && w.device != nil && !w.tunnel.isAsked {
		err = w.shakeHands()
	}
	return w, err
}

// link is what the kernel is asked for.
func (w *wire) link() netlink.Link {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU, attributes.Namespace = w.ends[0].name, w.mtu, netlink.NsFd(int(w.spaces[0]))
	if w.tunnel == nil {
		return &netlink.Veth{
			LinkAttrs:     attributes,
			PeerName:      w.ends[1].name,
			PeerNamespace: netlink.NsFd(int(w.spaces[1])),
		}
	}
	return &netlink.Vxlan{
		LinkAttrs: attributes,
		VxlanId:   w.tunnel.vni,
		SrcAddr:   w.tunnel.local,
		Group:     w.tunnel.remote,
		Port:      w.tunnel.port,
		Learning:  true,
	}
}

// remove takes the links away: that of the first end, and with it the one at the other end of a pair.
func (w *wire) remove() {
	if w.device != nil {
		w.device.Close()
	}
	for i, space := range w.spaces {
		if err := w.ends[i].removeLeftover(space); err != nil {
			fmt.Printf("%s is still there: %v\n", w.ends[i].name, err)
		}
		_ = space.Close()
	}
}
