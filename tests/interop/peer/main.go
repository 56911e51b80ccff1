// SPDX-License-Identifier: Apache-2.0

// Command nsm-peer is any one program of a mesh, made of the Go SDK of Network Service Mesh, so that each of ours can
// be tried with the others of theirs.
//
// It plays the role that it is called by: as its first argument, or else as the name of its file, so that a link to
// it stands where a program of ours would. Its settings are the variables that programs of ours read, too.
//
// As "answer" it is no program of a mesh, but says what the SDK says to the questions on its standard input.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/networkservicemesh/sdk/pkg/tools/log"
	"github.com/networkservicemesh/sdk/pkg/tools/log/logruslogger"
)

// roles are the programs that this one can be, by the names of ours; those of benchmarks among them.
var roles = map[string]func(ctx context.Context, s *settings, id *identity) error{
	"registry-memory": runRegistry,
	"nsmgr":           runManager,
	"forwarder":       runForwarder,
	"forwarder-bare":  runBareForwarder,
	"forwarder-wg":    runSecretForwarder,
	"registry-open":   runOpenRegistry,
	"nse-icmp":        runEndpoint,
	"nsc":             runClient,
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "nsm-peer: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	role := filepath.Base(os.Args[0])
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	if role == "answer" {
		return answerAll()
	}
	play, ok := roles[role]
	if !ok {
		return fmt.Errorf("no role %q; there are %q", role, slices.Sorted(maps.Keys(roles)))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s, err := read(role)
	if err != nil {
		return err
	}
	logrus.SetLevel(logrus.InfoLevel)
	if variable("LOG_LEVEL", "") == "WARN" {
		// The SDK now loses options of calls, and with them the files that are passed.
		logrus.SetLevel(logrus.WarnLevel)
	}
	log.EnableTracing(false)
	ctx = log.WithLog(ctx, logruslogger.New(ctx, map[string]interface{}{"name": s.name}))
	id, err := newIdentity(ctx, s.tokenLifetime)
	if err != nil {
		return err
	}
	defer id.close()
	return play(ctx, s, id)
}
