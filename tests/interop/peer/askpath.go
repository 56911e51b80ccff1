// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"

	"github.com/networkservicemesh/sdk/pkg/networkservice/common/updatepath"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/adapters"
	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
)

// keepServer ends a chain and keeps what has reached it.
type keepServer struct {
	arrived *networkservice.Connection
}

func (k *keepServer) Request(_ context.Context, request *networkservice.NetworkServiceRequest) (*networkservice.Connection, error) {
	k.arrived = request.GetConnection().Clone()
	return request.GetConnection(), nil
}

func (k *keepServer) Close(_ context.Context, connection *networkservice.Connection) (*emptypb.Empty, error) {
	k.arrived = connection.Clone()
	return new(emptypb.Empty), nil
}

// askPath asks what a hop of this name makes of the path of a connection, on its way in and on its way back.
func askPath(q *question) (a answer, err error) {
	connection := new(networkservice.Connection)
	if err := proto.Unmarshal(q.Object, connection); err != nil {
		return a, err
	}
	hop := updatepath.NewServer(q.Name)
	if q.IsClient {
		hop = adapters.NewClientToServer(updatepath.NewClient(q.Name))
	}
	end := new(keepServer)
	returned, err := next.NewNetworkServiceServer(hop, end).
		Request(context.Background(), &networkservice.NetworkServiceRequest{Connection: connection})
	if err != nil {
		return answer{Error: err.Error()}, nil
	}
	if a.PassedOn, err = proto.Marshal(end.arrived); err != nil {
		return a, err
	}
	a.Returned, err = proto.Marshal(returned)
	return a, err
}
