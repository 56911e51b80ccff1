// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/networkservicemesh/api/pkg/api/networkservice"
	"github.com/networkservicemesh/api/pkg/api/registry"

	"github.com/networkservicemesh/sdk/pkg/tools/matchutils"
)

// longest is how long a question may be, bytes.
const longest = 1 << 20

// question is what is asked: a JSON object a line. Messages are their bytes on the wire.
type question struct {
	// Ask is the subject; the fields that a subject has no use for stay away.
	Ask       string            `json:"ask"`
	Have      map[string]string `json:"have"`
	Want      map[string]string `json:"want"`
	Variables map[string]string `json:"variables"`
	Query     []byte            `json:"query"`
	Object    []byte            `json:"object"`
	Endpoints [][]byte          `json:"endpoints"`
	// Name is that of the program that asks, or of a resource.
	Name     string `json:"name"`
	IsClient bool   `json:"is_client"`
	// Policy is the file of the policy, below etc/nsm/opa.
	Policy      string              `json:"policy"`
	Tokens      []string            `json:"tokens"`
	Index       uint32              `json:"index"`
	Certificate []byte              `json:"certificate"`
	Origin      string              `json:"origin"`
	Owners      map[string][]string `json:"owners"`
	Selected    []string            `json:"selected"`
}

// answer is what the SDK says to a question.
type answer struct {
	Yes   bool     `json:"yes"`
	Names []string `json:"names"`
	Error string   `json:"error"`
	// Crashed says that the SDK would have ended the process, and why.
	Crashed string `json:"crashed"`
	// PassedOn and Returned are the connection that went on to the next hop, and the one that came back.
	PassedOn []byte `json:"passed_on"`
	Returned []byte `json:"returned"`
}

// subjects are what can be asked.
var subjects = map[string]func(*question) (answer, error){
	"labels":   askLabels,
	"choice":   askChoice,
	"service":  askService,
	"endpoint": askEndpoint,
	"monitor":  askMonitor,
	"path":     askPath,
	"policy":   askPolicy,
}

// answerAll answers the questions of the standard input, one after the other, until it ends.
func answerAll() error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longest)
	out := bufio.NewWriter(os.Stdout)
	for lines.Scan() {
		if err := answerOne(lines.Bytes(), out); err != nil {
			return fmt.Errorf("to %s: %w", lines.Bytes(), err)
		}
	}
	return lines.Err()
}

func answerOne(text []byte, out *bufio.Writer) error {
	q := new(question)
	if err := json.Unmarshal(text, q); err != nil {
		return err
	}
	ask, ok := subjects[q.Ask]
	if !ok {
		return fmt.Errorf("there is nothing to ask of %q", q.Ask)
	}
	a, err := survive(q, ask)
	if err != nil {
		return err
	}
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(out, string(line)+"\n"); err != nil {
		return err
	}
	return out.Flush()
}

// survive turns the end of the process into an answer.
func survive(q *question, ask func(*question) (answer, error)) (a answer, err error) {
	defer func() {
		if why := recover(); why != nil {
			a = answer{Crashed: fmt.Sprint(why)}
		}
	}()
	return ask(q)
}

func askLabels(q *question) (answer, error) {
	return answer{Yes: matchutils.IsSubset(q.Have, q.Want, q.Variables)}, nil
}

// askChoice asks which endpoints the matches of a service choose for a client with labels.
func askChoice(q *question) (a answer, err error) {
	service := new(registry.NetworkService)
	if err := proto.Unmarshal(q.Object, service); err != nil {
		return a, err
	}
	var candidates []*registry.NetworkServiceEndpoint
	for _, bytes := range q.Endpoints {
		candidate := new(registry.NetworkServiceEndpoint)
		if err := proto.Unmarshal(bytes, candidate); err != nil {
			return a, err
		}
		candidates = append(candidates, candidate)
	}
	for _, chosen := range matchutils.MatchEndpoint(q.Have, service, candidates...) {
		a.Names = append(a.Names, chosen.GetName())
	}
	return a, nil
}

func askService(q *question) (a answer, err error) {
	query, object := new(registry.NetworkService), new(registry.NetworkService)
	if err := both(q, query, object); err != nil {
		return a, err
	}
	return answer{Yes: matchutils.MatchNetworkServices(query, object)}, nil
}

func askEndpoint(q *question) (a answer, err error) {
	query, object := new(registry.NetworkServiceEndpoint), new(registry.NetworkServiceEndpoint)
	if err := both(q, query, object); err != nil {
		return a, err
	}
	return answer{Yes: matchutils.MatchNetworkServiceEndpoints(query, object)}, nil
}

func askMonitor(q *question) (a answer, err error) {
	selector, connection := new(networkservice.MonitorScopeSelector), new(networkservice.Connection)
	if err := both(q, selector, connection); err != nil {
		return a, err
	}
	return answer{Yes: connection.MatchesMonitorScopeSelector(selector)}, nil
}

// both reads the query and the object that it may match.
func both(q *question, query, object proto.Message) error {
	if err := proto.Unmarshal(q.Query, query); err != nil {
		return err
	}
	return proto.Unmarshal(q.Object, object)
}
