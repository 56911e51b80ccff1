// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/networkservicemesh/api/pkg/api/networkservice"

	"github.com/networkservicemesh/sdk/pkg/networkservice/core/next"
	"github.com/networkservicemesh/sdk/pkg/tools/grpcutils"
)

// line is what a client tells of what happens to its wire.
type line struct {
	// Event is connected, refused or closed, or what a monitor event is called.
	Event       string       `json:"event"`
	Error       string       `json:"error,omitempty"`
	Connections []connection `json:"connections,omitempty"`
}

// connection is what there is to tell of one.
type connection struct {
	ID       string   `json:"id"`
	State    string   `json:"state"`
	Path     []string `json:"path"`
	Endpoint string   `json:"endpoint"`
	Near     []string `json:"near"`
	Far      []string `json:"far"`
}

func describe(c *networkservice.Connection) connection {
	ip := c.GetContext().GetIpContext()
	told := connection{
		ID:       c.GetId(),
		State:    c.GetState().String(),
		Endpoint: c.GetNetworkServiceEndpointName(),
		Near:     ip.GetSrcIpAddrs(),
		Far:      ip.GetDstIpAddrs(),
	}
	for _, segment := range c.GetPath().GetPathSegments() {
		told.Path = append(told.Path, segment.GetName())
	}
	return told
}

func tell(l line) {
	if text, err := json.Marshal(l); err == nil {
		fmt.Println(string(text))
	}
}

// tellClient tells of every request that was granted, whoever asked: us, the refresh, or heal.
type tellClient struct{}

func (*tellClient) Request(ctx context.Context, request *networkservice.NetworkServiceRequest, options ...grpc.CallOption) (*networkservice.Connection, error) {
	granted, err := next.Client(ctx).Request(ctx, request, options...)
	if err == nil {
		tell(line{Event: "connected", Connections: []connection{describe(granted)}})
	}
	return granted, err
}

func (*tellClient) Close(ctx context.Context, closing *networkservice.Connection, options ...grpc.CallOption) (*emptypb.Empty, error) {
	answer, err := next.Client(ctx).Close(ctx, closing, options...)
	if err == nil {
		tell(line{Event: "closed"})
	}
	return answer, err
}

// watch tells what the manager says about the connection, until the manager says no more.
func watch(ctx context.Context, s *settings, id *identity, connectionID string) error {
	manager, err := grpc.DialContext(ctx, grpcutils.URLToTarget(s.connectTo), id.patient()...)
	if err != nil {
		return err
	}
	events, err := networkservice.NewMonitorConnectionClient(manager).MonitorConnections(ctx,
		&networkservice.MonitorScopeSelector{PathSegments: []*networkservice.PathSegment{{Id: connectionID}}})
	if err != nil {
		return err
	}
	go func() {
		defer func() { _ = manager.Close() }()
		for {
			event, err := events.Recv()
			if err != nil {
				tell(line{Event: "ended", Error: err.Error()})
				return
			}
			told := line{Event: strings.ToLower(event.GetType().String())}
			for _, c := range event.GetConnections() {
				told.Connections = append(told.Connections, describe(c))
			}
			tell(told)
		}
	}()
	return nil
}

// isAlive says whether every address of the endpoint answers a ping.
func isAlive(ctx context.Context, c *networkservice.Connection) bool {
	for _, address := range c.GetContext().GetIpContext().GetDstIPNets() {
		ping := exec.CommandContext(ctx, "ping", "-n", "-q", "-c", "1", "-W", "1", address.IP.String())
		if ping.Run() != nil {
			return false
		}
	}
	return true
}
