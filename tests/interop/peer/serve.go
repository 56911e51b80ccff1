// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"

	"google.golang.org/grpc"
)

// serve serves on these URLs until the context ends. Callers wait until enter has returned, so that whoever is
// answered finds a program that is registered; what enter answers with is run while we still listen.
func serve(ctx context.Context, server *grpc.Server, urls []*url.URL, enter func() (leave func(), err error)) error {
	defer server.Stop()
	var listeners []net.Listener
	for _, u := range urls {
		listener, err := listen(u)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w", u, err)
		}
		defer func() { _ = listener.Close() }()
		listeners = append(listeners, listener)
	}
	leave, err := enter()
	if err != nil {
		return err
	}
	defer leave()
	ended := make(chan error, len(listeners))
	for _, listener := range listeners {
		go func() { ended <- server.Serve(listener) }()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

func listen(u *url.URL) (net.Listener, error) {
	if u.Scheme != "unix" {
		return net.Listen("tcp", u.Host)
	}
	if err := os.Remove(u.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", u.Path)
}

// unregistered enters nowhere.
func unregistered() (func(), error) {
	return func() {}, nil
}
