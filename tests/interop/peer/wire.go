// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"reflect"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
)

// end is what one end of a wire should be.
type end struct {
	// space is the network namespace as a file, and number which one that is.
	space     string
	number    string
	name      string
	mark      string
	addresses []string
	routes    []route
}

// route leads to a prefix, by a next hop or over the link itself.
type route struct {
	to, by string
}

// plan is what a wire should be.
type plan struct {
	near, far end
	mtu       int
}

// wire is what was made of a plan.
type wire struct {
	plan
	space netns.NsHandle
}

// newPlan plans the wire of a connection of which we know the end at the endpoint.
func newPlan(connection *networkservice.Connection, far *networkservice.Mechanism) (*plan, error) {
	ip := connection.GetContext().GetIpContext()
	first := connection.GetPath().GetPathSegments()[0].GetId()
	p := &plan{mtu: int(connection.GetContext().GetMTU())}
	ends := []struct {
		of        *end
		mechanism *networkservice.Mechanism
		mark      string
		addresses []string
		routes    []*networkservice.Route
	}{
		{&p.near, connection.GetMechanism(), "server-" + first, ip.GetSrcIpAddrs(), ip.GetSrcRoutes()},
		{&p.far, far, "client-" + first, ip.GetDstIpAddrs(), ip.GetDstRoutes()},
	}
	for _, e := range ends {
		mechanism := kernel.ToMechanism(e.mechanism)
		if mechanism == nil {
			return nil, fmt.Errorf("%s is not by the kernel", e.mechanism)
		}
		made, err := newEnd(mechanism)
		if err != nil {
			return nil, err
		}
		made.mark, made.addresses = e.mark, e.addresses
		for _, r := range e.routes {
			made.routes = append(made.routes, route{r.GetPrefix(), r.GetNextHop()})
		}
		*e.of = *made
	}
	return p, nil
}

func newEnd(mechanism *kernel.Mechanism) (*end, error) {
	file, err := url.Parse(mechanism.GetNetNSURL())
	if err != nil {
		return nil, err
	}
	if file.Scheme != "file" || mechanism.GetInterfaceName() == "" {
		return nil, fmt.Errorf("the end has no file for its namespace or no name: %s", mechanism.GetParameters())
	}
	space, err := netns.GetFromPath(file.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the namespace %s: %w", file.Path, err)
	}
	defer func() { _ = space.Close() }()
	return &end{space: file.Path, number: space.UniqueId(), name: mechanism.GetInterfaceName()}, nil
}

// is says whether the wire is what is wanted, by whichever files its namespaces are known now.
func (w *wire) is(wanted *plan) bool {
	now := *wanted
	now.near.space, now.far.space = w.near.space, w.far.space
	return reflect.DeepEqual(w.plan, now)
}

// build makes both links at once, each in its place, in place of those that an earlier process of ours has left.
func (p *plan) build() (_ *wire, err error) {
	near, err := netns.GetFromPath(p.near.space)
	if err != nil {
		return nil, err
	}
	w := &wire{plan: *p, space: near}
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	far, err := netns.GetFromPath(p.far.space)
	if err != nil {
		return nil, err
	}
	defer func() { _ = far.Close() }()
	if err := errors.Join(p.near.removeLeftover(near), p.far.removeLeftover(far)); err != nil {
		return nil, err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU, attributes.Namespace = p.near.name, p.mtu, netlink.NsFd(int(near))
	pair := &netlink.Veth{LinkAttrs: attributes, PeerName: p.far.name, PeerNamespace: netlink.NsFd(int(far))}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("cannot make the pair %s and %s: %w", p.near.name, p.far.name, err)
	}
	return w, errors.Join(p.near.set(near), p.far.set(far))
}

// remove takes the link away, and with it the one at its other end.
func (w *wire) remove() {
	if err := w.near.removeLeftover(w.space); err != nil {
		fmt.Printf("%s is still there: %v\n", w.near.name, err)
	}
	_ = w.space.Close()
}

// removeLeftover removes the link of this name if it has our mark.
func (e *end) removeLeftover(space netns.NsHandle) error {
	handle, err := netlink.NewHandleAt(space, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	link, err := handle.LinkByName(e.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil || link.Attrs().Alias != e.mark {
		return err
	}
	return handle.LinkDel(link)
}

// set marks the link, puts it up and gives it its addresses and routes.
func (e *end) set(space netns.NsHandle) error {
	handle, err := netlink.NewHandleAt(space, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	link, err := handle.LinkByName(e.name)
	if err != nil {
		return err
	}
	if err := errors.Join(handle.LinkSetAlias(link, e.mark), handle.LinkSetUp(link)); err != nil {
		return err
	}
	for _, text := range e.addresses {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if nl.GetIPFamily(address.IP) == unix.AF_INET6 {
			address.Flags |= unix.IFA_F_NODAD
		}
		if err := handle.AddrReplace(link, address); err != nil {
			return fmt.Errorf("cannot add %s to %s: %w", text, e.name, err)
		}
	}
	for _, r := range e.routes {
		if err := r.add(handle, link); err != nil {
			return fmt.Errorf("cannot add a route to %s over %s: %w", r.to, e.name, err)
		}
	}
	return nil
}

func (r route) add(handle *netlink.Handle, link netlink.Link) error {
	_, to, err := net.ParseCIDR(r.to)
	if err != nil {
		return err
	}
	entry := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to}
	if r.by == "" {
		entry.Scope = netlink.SCOPE_LINK
	} else {
		entry.Gw, entry.Flags = net.ParseIP(r.by), int(netlink.FLAG_ONLINK)
	}
	return handle.RouteReplace(entry)
}
