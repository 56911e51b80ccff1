// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/wireguard"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/connect"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/discover"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/filtermechanisms"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/recvfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/vxlan/vni"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanismtranslation"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/null"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/roundrobin"
	registryrecvfd "github.com/networkservicemesh/sdk/pkg/registry/common/recvfd"
)

// forwarders is the service by which managers find us.
const forwarders = "forwarder"

// runForwarder joins network namespaces of this node by pairs of links, and with those of other nodes by tunnels.
func runForwarder(ctx context.Context, s *settings, id *identity) error {
	return forward(ctx, s, id, &joinServer{}, &joinClient{hasTunnels: s.tunnelIP != nil}, null.NewClient())
}

// runSecretForwarder has WireGuard, too, by wireguard-go.
func runSecretForwarder(ctx context.Context, s *settings, id *identity) error {
	joins := &joinClient{hasTunnels: s.tunnelIP != nil}
	return forward(ctx, s, id, &joinServer{}, joins, &wireguardClient{ip: s.tunnelIP})
}

// runBareForwarder agrees on everything as runForwarder does, and makes no links: what is left is the control plane,
// to be measured.
func runBareForwarder(ctx context.Context, s *settings, id *identity) error {
	return forward(ctx, s, id, null.NewServer(), null.NewClient(), null.NewClient())
}

// forward serves with the two halves of who makes the links, and with whoever offers more tunnels.
func forward(
	ctx context.Context, s *settings, id *identity,
	joins networkservice.NetworkServiceServer, tells, offers networkservice.NetworkServiceClient,
) error {
	lookUp := newRegistries(ctx, s.connectTo, id, registryrecvfd.NewNetworkServiceEndpointRegistryClient())
	servers := map[string]networkservice.NetworkServiceServer{kernel.MECHANISM: null.NewServer()}
	if s.tunnelIP != nil {
		servers[vxlan.MECHANISM] = vni.NewServer(s.tunnelIP)
	}
	if offers, ok := offers.(*wireguardClient); ok {
		servers[wireguard.MECHANISM] = &wireguardServer{ip: offers.ip}
	}
	forwarder := endpoint.NewServer(ctx, id.token,
		endpoint.WithName(s.name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(
			recvfd.NewServer(),
			sendfd.NewServer(),
			discover.NewServer(lookUp.services, lookUp.endpoints),
			roundrobin.NewServer(),
			joins,
			mechanisms.NewServer(servers),
			connect.NewServer(client.NewClient(ctx,
				client.WithName(s.name),
				client.WithoutRefresh(),
				client.WithAdditionalFunctionality(
					mechanismtranslation.NewClient(),
					tells,
					offers,
					vni.NewClient(s.tunnelIP),
					kernelmechanism.NewClient(),
					filtermechanisms.NewClient(),
					recvfd.NewClient(),
					sendfd.NewClient(),
				),
				client.WithDialOptions(append(id.patient(), grpc.WithBlock())...),
				client.WithDialTimeout(toDial),
			)),
		),
	)
	server := id.server()
	forwarder.Register(server)
	return serve(ctx, server, s.listenOn, func() (func(), error) {
		return register(ctx, s, id, []string{forwarders}, false)
	})
}
