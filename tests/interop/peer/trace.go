// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"

	"github.com/networkservicemesh/sdk/pkg/tools/opentelemetry"
)

// tellCollector tells the collector at NSM_OPEN_TELEMETRY_ENDPOINT of our calls, if TELEMETRY says so, until what it
// returns is closed.
func tellCollector(ctx context.Context, name string) io.Closer {
	spans := opentelemetry.InitSpanExporter(ctx, variable("OPEN_TELEMETRY_ENDPOINT", ""))
	return opentelemetry.Init(ctx, spans, nil, name)
}
