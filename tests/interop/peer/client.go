// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/cls"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/common"
	"github.com/networkservicemesh/api/pkg/api/networkservice/mechanisms/kernel"

	"github.com/networkservicemesh/sdk/pkg/networkservice/chains/client"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/authorize"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/clientinfo"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/heal"
	kernelmechanism "github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/kernel"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/mechanisms/sendfd"
	"github.com/networkservicemesh/sdk/pkg/networkservice/common/upstreamrefresh"
)

const (
	// betweenTries is how long a client waits after a request that failed.
	betweenTries = 200 * time.Millisecond
	// pingEvery and pingWithin are how often and how long a client looks whether its wire is alive.
	pingEvery  = 200 * time.Millisecond
	pingWithin = time.Second
)

// runClient asks for one wire into our network namespace, keeps it, and closes it when the program is told to end.
// SIGUSR1 makes it ask once more for what it has. What happens is printed, a JSON object a line.
func runClient(ctx context.Context, s *settings, id *identity) error {
	refresh := make(chan os.Signal, 1)
	signal.Notify(refresh, syscall.SIGUSR1)
	// The chain outlives the signal that ends us, for the close.
	chain, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	asks := client.NewClient(chain,
		client.WithClientURL(s.connectTo),
		client.WithName(s.name),
		client.WithAuthorizeClient(authorize.NewClient()),
		client.WithHealClient(heal.NewClient(chain,
			heal.WithLivenessCheck(isAlive),
			heal.WithLivenessCheckInterval(pingEvery),
			heal.WithLivenessCheckTimeout(pingWithin),
		)),
		client.WithAdditionalFunctionality(
			&tellClient{},
			clientinfo.NewClient(),
			upstreamrefresh.NewClient(chain),
			kernelmechanism.NewClient(),
			sendfd.NewClient(),
		),
		client.WithDialOptions(id.patient()...),
	)
	request := first(s)
	if err := watch(chain, s, id, request.GetConnection().GetId()); err != nil {
		return err
	}
	for {
		call, cancel := context.WithTimeout(ctx, s.requestTimeout)
		got, err := asks.Request(call, request.Clone())
		cancel()
		if err == nil {
			request.Connection = got
		} else {
			tell(line{Event: "refused", Error: err.Error()})
		}
		retry := time.After(betweenTries)
		if err == nil {
			retry = nil
		}
		select {
		case <-retry:
			continue
		case <-refresh:
			continue
		case <-ctx.Done():
		}
		call, cancel = context.WithTimeout(chain, s.requestTimeout)
		defer cancel()
		_, err = asks.Close(call, request.GetConnection())
		return err
	}
}

// first is the request for the service whose URL the settings have: kernel://SERVICE/INTERFACE.
func first(s *settings) *networkservice.NetworkServiceRequest {
	parameters := map[string]string{}
	if name := strings.TrimPrefix(s.wanted.Path, "/"); name != "" {
		parameters[common.InterfaceNameKey] = name
	}
	return &networkservice.NetworkServiceRequest{
		Connection: &networkservice.Connection{
			Id:             fmt.Sprintf("%s-0", s.name),
			NetworkService: s.wanted.Host,
			Context:        &networkservice.ConnectionContext{},
		},
		MechanismPreferences: []*networkservice.Mechanism{
			{Cls: cls.LOCAL, Type: kernel.MECHANISM, Parameters: parameters},
		},
	}
}
