// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"

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

// newEnd plans the end that a mechanism describes, with the addresses and routes of its side.
func newEnd(mechanism *kernel.Mechanism, mark string, addresses []string, routes []*networkservice.Route) (*end, error) {
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
	made := &end{space: file.Path, number: space.UniqueId(), name: mechanism.GetInterfaceName(), mark: mark, addresses: addresses}
	for _, r := range routes {
		made.routes = append(made.routes, route{r.GetPrefix(), r.GetNextHop()})
	}
	return made, nil
}

// removeLeftover removes the links that have our mark, whatever they are called: another process may have given its
// own another name.
func (e *end) removeLeftover(space netns.NsHandle) error {
	handle, err := netlink.NewHandleAt(space, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	links, err := handle.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Attrs().Alias == e.mark {
			err = errors.Join(err, handle.LinkDel(link))
		}
	}
	return err
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
