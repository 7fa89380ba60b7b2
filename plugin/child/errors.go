package child

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/nomad/nomad/structs"
	bstructs "github.com/hashicorp/nomad/plugins/base/structs"
	"github.com/hashicorp/nomad/plugins/drivers"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unavailableError says that there was no child to do what was asked. Nomad's
// client may try again.
type unavailableError struct {
	path string
	err  error
}

func (e *unavailableError) Error() string {
	return fmt.Sprintf("driver plugin %s is not available: %v", e.path, e.err)
}

func (e *unavailableError) Unwrap() error { return e.err }

// IsRecoverable implements structs.Recoverable: the job's restart block decides.
func (e *unavailableError) IsRecoverable() bool { return true }

// lostError is the fate of a task that no later child could recover. To all
// but those who wait for it, such a task does not exist.
type lostError struct{ err error }

func (e *lostError) Error() string {
	return fmt.Sprintf("the driver plugin ended and could not recover the task when it was started again: %v", e.err)
}

func (e *lostError) Is(target error) bool { return target == drivers.ErrTaskNotFound }

// plain is the child's own error, without what gRPC has put around it.
// Identity does not survive the way; that of the one error that callers ask
// for is restored.
func plain(err error) error {
	var rec structs.Recoverable
	if errors.As(err, &rec) {
		return structs.NewRecoverableError(errors.New(message(rec.Error())), rec.IsRecoverable())
	}
	st, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	if text := drivers.ErrTaskNotFound.Error(); st.Message() == text || strings.HasSuffix(st.Message(), ": "+text) {
		return drivers.ErrTaskNotFound
	}
	if st.Code() == codes.Unknown {
		return errors.New(st.Message())
	}
	return err
}

// message is the text of a gRPC status that has become part of another error.
func message(text string) string {
	if !strings.HasPrefix(text, "rpc error: code = ") {
		return text
	}
	if _, desc, ok := strings.Cut(text, " desc = "); ok {
		return desc
	}
	return text
}

const (
	// endingGrace is how long a child may take from letting its callers go to
	// its end.
	endingGrace = time.Second
	// pingTimeout bounds the health check of a child that was said to be gone.
	pingTimeout = 5 * time.Second
)

// died reports whether a call has failed because the child has ended, and then
// does not return before everybody else knows. A child whose connection is
// broken is ended.
func (d *Driver) died(s *session, err error) bool {
	if !d.ended(s, err) {
		return false
	}
	s.proc.kill()
	<-s.gone
	return true
}

func (d *Driver) ended(s *session, err error) bool {
	if errors.Is(err, bstructs.ErrPluginShutdown) {
		return true
	}
	code := status.Code(err)
	// A driver that ends in good order lets its waiters go first.
	going := code == codes.Canceled || strings.HasSuffix(err.Error(), drivers.ErrChannelClosed.Error())
	if code != codes.Unavailable && !going {
		return false
	}
	limit := time.NewTimer(endingGrace)
	defer limit.Stop()
	select {
	case <-s.proc.done:
		return true
	case <-limit.C:
	}
	// Drivers pass on errors of what they are themselves clients of. Those
	// look the same as a lost connection.
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	return !s.answers(ctx)
}
