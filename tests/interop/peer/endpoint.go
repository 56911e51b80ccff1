// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/endpoint"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/ipam/point2pointipam"
)

// runEndpoint gives wires that end in our network namespace, with two addresses of the prefix each.
func runEndpoint(ctx context.Context, s *settings, id *identity) error {
	responder := endpoint.NewServer(ctx, id.token,
		endpoint.WithName(s.name),
		endpoint.WithAuthorizeServer(authorize.NewServer()),
		endpoint.WithAdditionalFunctionality(
			point2pointipam.NewServer(s.prefix),
			mechanisms.NewServer(map[string]networkservice.NetworkServiceServer{
				kernel.MECHANISM: kernelmechanism.NewServer(),
			}),
			sendfd.NewServer(),
		),
	)
	server := id.server()
	responder.Register(server)
	return serve(ctx, server, s.listenOn, func() (func(), error) {
		return register(ctx, s, id, s.services, s.hasServices)
	})
}
