// The naming-peer program does to an etcd what Go programs do that use etcd's own
// naming packages: it keeps endpoints with the endpoints manager, and it calls services
// through the official resolver. The tests of the package discovery compare with it,
// because the format is nowhere written down but in that code.
//
//	naming-peer -etcd 127.0.0.1:2379 update tallystick/ledger < updates.jsonl
//	naming-peer -etcd 127.0.0.1:2379 list tallystick/ledger
//	naming-peer -etcd 127.0.0.1:2379 call tallystick/ledger < counts
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
)

const (
	connectTimeout = 5 * time.Second
	callTimeout    = 5 * time.Second
	maxCalls       = 10_000
	roundRobin     = `{"loadBalancingConfig": [{"round_robin": {}}]}`
)

// update is one line of what the command update reads.
type update struct {
	Op       string `json:"op"` // add (which also replaces) or delete
	Key      string `json:"key"`
	Addr     string `json:"addr"`
	Metadata any    `json:"metadata"` // a string, an object, or left out for none
	TTL      int64  `json:"ttl_s"`    // seconds; 0 writes without a lease
}

// answers is one line of what the command call prints.
type answers struct {
	Peers  map[string]int `json:"peers"`  // calls answered, by address
	Errors []string       `json:"errors"` // one for each call that failed
}

func main() {
	etcd := flag.String("etcd", "127.0.0.1:2379", "`address` of an etcd")
	limit := flag.Duration("limit", time.Minute, "the `time` after which it gives up")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: naming-peer [flags] update|list|call SERVICE")
		os.Exit(2)
	}
	// Reading standard input heeds no context, so the limit ends the process.
	time.AfterFunc(*limit, func() { fail(fmt.Errorf("not done within %v", *limit)) })
	if err := run(*etcd, flag.Arg(0), flag.Arg(1)); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "naming-peer:", err)
	os.Exit(1)
}

func run(etcd, command, service string) error {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{etcd},
		DialTimeout: connectTimeout,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	switch command {
	case "update":
		return applyAll(client, service)
	case "list":
		return list(client, service)
	case "call":
		return callAll(client, service)
	}
	return fmt.Errorf("no such command: %s", command)
}

// applyAll applies each update on standard input with the endpoints manager.
func applyAll(client *clientv3.Client, service string) error {
	manager, err := endpoints.NewManager(client, service)
	if err != nil {
		return err
	}
	for lines := json.NewDecoder(os.Stdin); ; {
		var next update
		if err := lines.Decode(&next); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := apply(client, manager, next); err != nil {
			return fmt.Errorf("%s %s: %w", next.Op, next.Key, err)
		}
	}
}

func apply(client *clientv3.Client, manager endpoints.Manager, next update) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	switch next.Op {
	case "delete":
		return manager.DeleteEndpoint(ctx, next.Key)
	case "add":
		options, err := leased(ctx, client, next.TTL)
		if err != nil {
			return err
		}
		endpoint := endpoints.Endpoint{Addr: next.Addr, Metadata: next.Metadata}
		return manager.AddEndpoint(ctx, next.Key, endpoint, options...)
	}
	return errors.New("no such operation")
}

func leased(ctx context.Context, client *clientv3.Client, ttl int64) ([]clientv3.OpOption, error) {
	if ttl == 0 {
		return nil, nil
	}
	lease, err := client.Grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	return []clientv3.OpOption{clientv3.WithLease(lease.ID)}, nil
}

// list prints the endpoints as Go decodes them: a JSON object by key.
func list(client *clientv3.Client, service string) error {
	manager, err := endpoints.NewManager(client, service)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	found, err := manager.List(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// callAll makes as many calls as each line on standard input says, all on one channel,
// and prints who answered: a JSON object a line.
func callAll(client *clientv3.Client, service string) error {
	builder, err := resolver.NewBuilder(client)
	if err != nil {
		return err
	}
	channel, err := grpc.NewClient(
		"etcd:///"+service,
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(roundRobin),
	)
	if err != nil {
		return err
	}
	defer channel.Close()
	health := grpc_health_v1.NewHealthClient(channel)
	output := json.NewEncoder(os.Stdout)
	for lines := json.NewDecoder(os.Stdin); ; {
		var count int
		if err := lines.Decode(&count); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := output.Encode(call(health, min(count, maxCalls))); err != nil {
			return err
		}
	}
}

func call(health grpc_health_v1.HealthClient, count int) answers {
	result := answers{Peers: map[string]int{}, Errors: []string{}}
	for range count {
		from, err := check(health)
		if err != nil {
			result.Errors = append(result.Errors, err.Error())
			continue
		}
		result.Peers[from]++
	}
	return result
}

func check(health grpc_health_v1.HealthClient) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var from peer.Peer
	_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Peer(&from))
	if err != nil {
		return "", err
	}
	return from.Addr.String(), nil
}
