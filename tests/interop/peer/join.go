// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/vxlan"
	"github.com/networkservicemesh/api/pkg/api/networkservice/payload"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/networkservice/utils/metadata"
	"github.com/networkservicemesh/sdk/pkg/tools/postpone"
)

// joinServer makes the wire of a connection when both of its ends are known, and takes it away with the connection.
type joinServer struct{}

// joinClient offers a tunnel to other nodes, and tells the server half of the forwarder what the next hop has chosen.
type joinClient struct {
	hasTunnels bool
}

// farKey and wireKey are for what is kept of a connection: what the next hop has chosen, and the wire.
type (
	farKey  struct{}
	wireKey struct{}
)

func (*joinServer) Request(ctx context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	later := postpone.ContextWithValues(ctx)
	connection, err := next.Server(ctx).Request(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := join(ctx, connection); err != nil {
		closing, cancel := later()
		defer cancel()
		if _, closed := next.Server(ctx).Close(closing, connection); closed != nil {
			err = fmt.Errorf("%w; and it cannot be closed: %v", err, closed)
		}
		return nil, err
	}
	return connection, nil
}

func join(ctx context.Context, connection *networkservice.Connection) error {
	kept := metadata.Map(ctx, false)
	far, ok := metadata.Map(ctx, true).Load(farKey{})
	if !ok {
		return fmt.Errorf("nobody behind us has chosen a mechanism for %s", connection.GetId())
	}
	wanted, err := newPlan(ctx, connection, far.(*networkservice.Mechanism))
	if err != nil {
		return err
	}
	if old, ok := kept.Load(wireKey{}); ok {
		if old.(*wire).is(wanted) {
			return nil
		}
		old.(*wire).remove()
		kept.Delete(wireKey{})
	}
	made, err := wanted.build()
	if err != nil {
		return err
	}
	kept.Store(wireKey{}, made)
	return nil
}

func (*joinServer) Close(ctx context.Context, connection *networkservice.Connection) (*emptypb.Empty, error) {
	if old, ok := metadata.Map(ctx, false).LoadAndDelete(wireKey{}); ok {
		old.(*wire).remove()
	}
	return next.Server(ctx).Close(ctx, connection)
}

func (j *joinClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	if j.hasTunnels && request.GetConnection().GetPayload() == payload.Ethernet {
		request.MechanismPreferences = append(request.GetMechanismPreferences(),
			&networkservice.Mechanism{Cls: cls.REMOTE, Type: vxlan.MECHANISM, Parameters: map[string]string{}})
	}
	connection, err := next.Client(ctx).Request(ctx, request, options...)
	if err == nil {
		metadata.Map(ctx, true).Store(farKey{}, connection.GetMechanism().Clone())
	}
	return connection, err
}

func (*joinClient) Close(ctx context.Context, connection *networkservice.Connection, options ...grpc.CallOption) (*emptypb.Empty, error) {
	return next.Client(ctx).Close(ctx, connection, options...)
}
