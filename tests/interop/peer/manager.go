// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net/url"
	"time"

	"google.golang.org/grpc"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/nsmgr"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	registryauthorize "github.com/networkservicemesh/sdk/pkg/registry/common/authorize"
)

// toDial is how long managers and forwarders wait for a next hop, as in the reference's deployments.
const toDial = 750 * time.Millisecond

// runManager is the manager of a node, with the policies that the reference's has.
func runManager(ctx context.Context, s *settings, id *identity) error {
	server := registryauthorize.WithPolicies(commonPolicies, registryPolicies, serverPolicies)
	client := registryauthorize.WithPolicies(commonPolicies, registryPolicies, clientPolicies)
	manager := nsmgr.NewServer(ctx, id.token,
		nsmgr.WithName(s.name),
		nsmgr.WithURL(s.atManager().String()),
		nsmgr.WithRegistry(s.registry),
		nsmgr.WithAuthorizeServer(authorize.NewServer()),
		nsmgr.WithAuthorizeNSRegistryServer(registryauthorize.NewNetworkServiceRegistryServer(server)),
		nsmgr.WithAuthorizeNSERegistryServer(registryauthorize.NewNetworkServiceEndpointRegistryServer(server)),
		nsmgr.WithAuthorizeNSRegistryClient(registryauthorize.NewNetworkServiceRegistryClient(client)),
		nsmgr.WithAuthorizeNSERegistryClient(registryauthorize.NewNetworkServiceEndpointRegistryClient(client)),
		nsmgr.WithDialOptions(append(id.dialOptions(), grpc.WithBlock())...),
		nsmgr.WithDialTimeout(toDial),
	)
	services := id.server()
	manager.Register(services)
	return serve(ctx, services, s.listenOn, unregistered)
}

// atManager is the URL by which other nodes reach us: the first by TCP, or else the first.
func (s *settings) atManager() *url.URL {
	if s.public != nil {
		return s.public
	}
	for _, u := range s.listenOn {
		if u.Scheme == "tcp" {
			return u
		}
	}
	return s.listenOn[0]
}
