package rig

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/cluster"
	"github.com/nomad-patterns/nomad-patterns/e2e/election/proxy"
)

// BrokerConfig says how a broker is run.
type BrokerConfig struct {
	Consul *cluster.Consul
	Binary string
	ID     string
	Prefix string
	// Agent is the Consul agent's address.
	Agent string
	// Management is where the broker serves its profiles. Default: nowhere.
	Management string
	// Plain leaves the proxies out.
	Plain bool
	// TLS is how it is reached, if it speaks TLS. It has to be plain.
	TLS *tls.Config
	// Flags are further ones.
	Flags []string
}

// Broker is a broker in a process, with a proxy between it and Consul and another one
// between clients and it, unless it is plain.
type Broker struct {
	process
	cfg    BrokerConfig
	addr   string
	consul *proxy.Proxy
	front  *proxy.Proxy
}

// NewBroker makes a broker. It is not started.
func NewBroker(cfg BrokerConfig) (*Broker, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, addr: addr}
	b.process = process{name: "broker-" + cfg.Prefix + "-" + cfg.ID, logDir: cfg.Consul.LogDir(), start: b.command}
	if cfg.Plain {
		return b, nil
	}
	if b.consul, err = proxy.Start(strings.TrimPrefix(cfg.Agent, "http://")); err != nil {
		return nil, err
	}
	if b.front, err = proxy.Start(addr); err != nil {
		return nil, errors.Join(err, b.consul.Close())
	}
	return b, nil
}

// freeAddr is an address on which nobody listens now. It stays the same when the
// process is killed and started again, so it cannot be the kernel's choice each time.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (b *Broker) command() *exec.Cmd {
	consul := b.cfg.Agent
	if !b.cfg.Plain {
		consul = "http://" + b.consul.Addr()
	}
	args := []string{"agent", "-id", b.cfg.ID, "-prefix", b.cfg.Prefix, "-listen", b.addr, "-advertise", b.Address()}
	if b.cfg.Management != "" {
		args = append(args, "-management", b.cfg.Management)
	}
	cmd := exec.Command(b.cfg.Binary, append(args, b.cfg.Flags...)...)
	cmd.Env = append(os.Environ(), b.cfg.Consul.Env(consul)...)
	cmd.Env = append(cmd.Env, b.cfg.Consul.Mark("broker"))
	return cmd
}

// Address is where clients reach it, through the proxy if there is one.
func (b *Broker) Address() string {
	if b.cfg.Plain {
		return b.Direct()
	}
	return "http://" + b.front.Addr()
}

// Direct is where it listens itself.
func (b *Broker) Direct() string {
	if b.cfg.TLS != nil {
		return "https://" + b.addr
	}
	return "http://" + b.addr
}

// Consul is the proxy between the broker and Consul.
func (b *Broker) Consul() *proxy.Proxy { return b.consul }

// Front is the proxy between clients and the broker.
func (b *Broker) Front() *proxy.Proxy { return b.front }

// AwaitReady waits until the broker says that it is well.
func (b *Broker) AwaitReady(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: b.cfg.TLS}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Direct()+"/v1/health", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			err = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return err
			}
			err = errors.Join(err, errors.New(resp.Status))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("broker %s is not ready: %w", b.cfg.ID, err)
		case <-tick.C:
		}
	}
}

// Stop asks the broker to end and returns when it has. It can be started again.
func (b *Broker) Stop() error { return b.process.Close() }

// Close ends the broker and its proxies.
func (b *Broker) Close() error {
	if b.cfg.Plain {
		return b.process.Close()
	}
	b.consul.Pass()
	b.front.Pass()
	return errors.Join(b.process.Close(), b.consul.Close(), b.front.Close())
}
