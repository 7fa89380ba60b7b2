package driver

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"github.com/shoenig/test/must"
)

// call is the client's end of `nomad alloc exec`: it sends its input and keeps
// what comes back.
type call struct {
	ctx context.Context
	in  []*drivers.ExecTaskStreamingRequestMsg

	stdout, stderr string
	code           int
	err            error
}

func (c *call) Send(m *drivers.ExecTaskStreamingResponseMsg) error {
	c.stdout += string(m.GetStdout().GetData())
	c.stderr += string(m.GetStderr().GetData())
	if m.GetExited() {
		c.code = int(m.GetResult().GetExitCode())
	}
	return nil
}

func (c *call) Recv() (*drivers.ExecTaskStreamingRequestMsg, error) {
	if len(c.in) == 0 {
		<-c.ctx.Done()
		return nil, io.EOF
	}
	m := c.in[0]
	c.in = c.in[1:]
	return m, nil
}

// execStream runs a command over gRPC, as Nomad's client does.
func execStream(t *testing.T, h drivers.DriverPlugin, id string, command []string, stdin string) *call {
	t.Helper()
	raw, ok := h.(drivers.ExecTaskStreamingRawDriver)
	must.True(t, ok)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := &call{ctx: ctx, code: -1, in: []*drivers.ExecTaskStreamingRequestMsg{
		{Stdin: &proto.ExecTaskStreamingIOOperation{Data: []byte(stdin)}},
		{Stdin: &proto.ExecTaskStreamingIOOperation{Close: true}},
	}}
	c.err = raw.ExecTaskStreamingRaw(ctx, id, command, false, c)
	return c
}

// Docker wants the parts of the stream; here they are put together again.
func TestExecStreaming_OfParts(t *testing.T) {
	s := newSetup(t, "")
	s.ExecTaskStreamingF = func(_ context.Context, id string, opts *drivers.ExecOptions) (*drivers.ExitResult, error) {
		if id != s.cfg.ID || opts.Tty || len(opts.Command) != 2 {
			return nil, errors.New("wrong task, terminal or command")
		}
		in, err := io.ReadAll(opts.Stdin)
		if err != nil {
			return nil, err
		}
		if _, err := opts.Stdout.Write(append([]byte("out "), in...)); err != nil {
			return nil, err
		}
		if _, err := opts.Stderr.Write([]byte("err")); err != nil {
			return nil, err
		}
		return &drivers.ExitResult{ExitCode: 6}, nil
	}
	c := execStream(t, s.h, s.cfg.ID, []string{"a", "b"}, "in")
	must.NoError(t, c.err)
	must.Eq(t, 6, c.code)
	must.Eq(t, "out in", c.stdout)
	must.Eq(t, "err", c.stderr)
}

func TestExecStreaming_InnerError(t *testing.T) {
	s := newSetup(t, "")
	s.ExecTaskStreamingF = func(_ context.Context, _ string, opts *drivers.ExecOptions) (*drivers.ExitResult, error) {
		// Nomad's client tells of the end of a stream that it still writes to
		// only that it has ended.
		if _, err := io.ReadAll(opts.Stdin); err != nil {
			return nil, err
		}
		return nil, errors.New("no such command")
	}
	must.ErrorContains(t, execStream(t, s.h, s.cfg.ID, []string{"a"}, "").err, "no such command")
}

// A command that ends without reading its input leaves nobody behind who writes
// to it; goleak would find him.
func TestExecStreaming_InputNotRead(t *testing.T) {
	s := newSetup(t, "")
	sent := make(chan struct{})
	s.ExecTaskStreamingF = func(context.Context, string, *drivers.ExecOptions) (*drivers.ExitResult, error) {
		<-sent
		return &drivers.ExitResult{ExitCode: 3}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &noticed{sent: sent, call: call{ctx: ctx, in: []*drivers.ExecTaskStreamingRequestMsg{
		{Stdin: &proto.ExecTaskStreamingIOOperation{Data: []byte("unread")}},
	}}}
	must.NoError(t, s.d.ExecTaskStreamingRaw(ctx, s.cfg.ID, []string{"a"}, false, c))
	must.Eq(t, 3, c.code)
}

// noticed says when its first message has been taken.
type noticed struct {
	call
	sent chan struct{}
}

func (n *noticed) Recv() (*drivers.ExecTaskStreamingRequestMsg, error) {
	m, err := n.call.Recv()
	if err == nil {
		close(n.sent)
	}
	return m, err
}

func TestExecStreaming_NotSupported(t *testing.T) {
	d := decorate(t, "lifecycle-fake", func(context.Context, hclog.Logger) drivers.DriverPlugin {
		return struct{ drivers.DriverPlugin }{newFake()}
	})
	err := d.ExecTaskStreamingRaw(t.Context(), "id", []string{"a"}, false, nil)
	must.ErrorContains(t, err, "does not support exec")
}
