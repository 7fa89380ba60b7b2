package manage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

const (
	nomadLimit = 10 * time.Second       // for one answer of Nomad
	firstWait  = 100 * time.Millisecond // for a deployment
	mostWait   = 2 * time.Second
	retryLater = 10 * time.Second // what a caller is told whose time was up
)

// What Nomad's servers say. They answer in text, some of it with status 500.
const (
	saysDeployment = "job scaling blocked due to active deployment"
	saysConflict   = "Enforcing job modify index"
	saysNoLeader   = "No cluster leader"
	saysDisabled   = "Job registration, dispatch, and scale are disabled by the scheduler configuration"
	saysDenied     = "Permission denied"
	saysNoToken    = "ACL token"
	saysAbovePol   = "group count was greater than scaling policy maximum"
	saysBelowPol   = "group count was less than scaling policy minimum"
	saysMaxCount   = "total count was greater than configured job_max_count"
)

// Sentinels of what [Scaler.Replicate] returns, for errors.Is. All come within
// an *[httpapi.Error].
var (
	ErrBounds     = errors.New("outside the bounds")
	ErrDenied     = errors.New("not permitted by Nomad")
	ErrBlocked    = errors.New("blocked by a deployment")
	ErrConflict   = errors.New("the job keeps being changed by others")
	ErrUnscalable = errors.New("not a job whose groups have a count to change")
	ErrUnknown    = errors.New("it may have been done all the same")
)

// Scaler asks Nomad for more or fewer of a task's group. Its methods may be
// called from several goroutines.
type Scaler struct {
	nomad *api.Client
	log   hclog.Logger
	turns turns
}

// NewScaler returns a scaler that uses a client with the plugin's token, which
// needs read-job and scale-job in the namespaces of the tasks.
func NewScaler(nomad *api.Client, log hclog.Logger) *Scaler {
	return &Scaler{nomad: nomad, log: log, turns: turns{least: leastSpread, jobs: make(map[[2]string]*turn)}}
}

// ScaleRequest is one task's wish.
type ScaleRequest struct {
	Task   Info // who asks; Task.Replicate are the bounds of its own job file
	Delta  int64
	Reason string // goes into the message of the scaling event; may be empty
}

// Replicate changes the count of the task's group by Delta, within the task's
// bounds and those of the job's scaling block. It takes turns with changes by
// others, which takes at least a moment, and waits for a deployment to end, until
// ctx ends; the error then says what it has waited for. It is an *[httpapi.Error].
//
// Every request that succeeds has changed the count by its Delta, however many
// there are at once. One that fails has not, unless it is ErrUnknown.
func (s *Scaler) Replicate(ctx context.Context, r ScaleRequest) (Scaled, error) {
	if refusal := r.check(); refusal != nil {
		return Scaled{}, refusal
	}
	// What is still to be added. It changes when this request has overwritten the
	// count of another one that Nomad accepted in the same moment.
	delta := r.Delta
	wait := firstWait
	var waited error // for what
	for {
		out, lost, err := s.try(ctx, r, delta)
		switch {
		case err == nil && lost == 0:
			out.Previous = out.Count - r.Delta
			return out, nil
		case err == nil:
			s.log.Info("two changes of a count met, adding the other one again", "job", r.Task.Job, "group", r.Task.Group, "delta", lost)
			delta = lost
		case errors.Is(err, ErrConflict):
			waited = err
		case errors.Is(err, ErrBlocked):
			waited = err
			if !pause(ctx, wait/2+rand.N(wait/2)) { //nolint:gosec // spreads load
				return Scaled{}, err
			}
			wait = min(2*wait, mostWait)
		case waited != nil && ctx.Err() != nil && !errors.Is(err, ErrUnknown):
			return Scaled{}, waited
		default:
			return Scaled{}, err
		}
	}
}

func (r ScaleRequest) check() *httpapi.Error {
	switch b := r.Task.Replicate; {
	case b == nil:
		return httpapi.Errorf(http.StatusForbidden, "", noReplicate)
	case r.Delta == 0:
		return httpapi.Errorf(http.StatusBadRequest, "delta", "0 changes nothing")
	case r.Delta > b.Max || r.Delta < -b.Max:
		return httpapi.Errorf(http.StatusBadRequest, "delta", "%d is more than the %d that the job's replicate block lets the group have: %w", r.Delta, b.Max, ErrBounds)
	}
	return nil
}

// try does it once. It returns by how much the count is off since another
// change, which the answer did not tell of, was overwritten.
func (s *Scaler) try(ctx context.Context, r ScaleRequest, delta int64) (out Scaled, lost int64, err error) {
	turn, done, ok := s.turns.take(ctx, r.Task.Namespace, r.Task.Job)
	if !ok {
		return out, 0, httpapi.Errorf(http.StatusServiceUnavailable, "", "not done in time, because many ask at once: %w", ctx.Err()).After(retryLater)
	}
	defer done()
	job, group, err := s.read(ctx, r)
	if err != nil {
		return out, 0, err
	}
	previous := int64(*group.Count)
	out = Scaled{Count: previous + delta, Previous: previous}
	if err := r.bounded(group, out.Count); err != nil {
		return out, 0, err
	}
	resp, err := s.write(ctx, r, job, out.Count)
	if err == nil {
		out.EvalID = resp.EvalID
		lost, err = s.overwritten(ctx, r, previous, resp.JobModifyIndex)
	}
	s.turns.met(turn, lost != 0 || errors.Is(err, ErrConflict) || errors.Is(err, ErrUnknown))
	return out, lost, err
}

// read returns the job and the task's group as they are now.
func (s *Scaler) read(ctx context.Context, r ScaleRequest) (*api.Job, *api.TaskGroup, error) {
	ctx, cancel := context.WithTimeout(ctx, nomadLimit)
	defer cancel()
	job, _, err := s.nomad.Jobs().Info(r.Task.Job, (&api.QueryOptions{Namespace: r.Task.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, nil, r.explain(ctx, doingRead, err)
	}
	if job.JobModifyIndex == nil {
		return nil, nil, httpapi.Errorf(http.StatusBadGateway, "", doingRead+": the answer is no job; is the address Nomad's?")
	}
	why := unscalable(job)
	if why == "" {
		for _, g := range job.TaskGroups {
			if value(g.Name) == r.Task.Group && g.Count != nil {
				return job, g, nil
			}
		}
		why = fmt.Sprintf("has no group %q any more", r.Task.Group)
	}
	return nil, nil, httpapi.Errorf(http.StatusConflict, "", "job %q %s: %w", r.Task.Job, why, ErrUnscalable)
}

// unscalable says why a job's groups have no count to change; "" if they have.
func unscalable(job *api.Job) string {
	switch kind := value(job.Type); {
	case value(job.ParentID) != "":
		return fmt.Sprintf("is one run of %q; dispatch or start another run instead", *job.ParentID)
	case job.IsPeriodic() || job.IsParameterized():
		return "is only a template for its runs"
	case kind == api.JobTypeSystem || kind == api.JobTypeSysbatch:
		return fmt.Sprintf("has type %q, which runs once on each node", kind)
	case value(job.Stop):
		return "is stopped"
	}
	return ""
}

func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// bounded refuses a count outside the bounds, and says whose they are.
func (r ScaleRequest) bounded(group *api.TaskGroup, count int64) error {
	low, high := r.Task.Replicate.Min, r.Task.Replicate.Max
	lowOf, highOf := "the task's replicate block", "the task's replicate block"
	if p := group.Scaling; p != nil {
		if p.Min != nil && *p.Min > low {
			low, lowOf = *p.Min, "the group's scaling block"
		}
		if p.Max != nil && *p.Max < high {
			high, highOf = *p.Max, "the group's scaling block"
		}
	}
	low = max(low, 0)
	switch {
	case count > high || count > math.MaxInt32:
		return httpapi.Errorf(http.StatusConflict, "delta", "group %q has %d, and max is %d by %s: %w", r.Task.Group, *group.Count, high, highOf, ErrBounds)
	case count < low:
		return httpapi.Errorf(http.StatusConflict, "delta", "group %q has %d, and min is %d by %s: %w", r.Task.Group, *group.Count, low, lowOf, ErrBounds)
	}
	return nil
}

// write sends the new count for the job as it was read.
func (s *Scaler) write(ctx context.Context, r ScaleRequest, job *api.Job, count int64) (*api.JobRegisterResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, nomadLimit)
	defer cancel()
	message := fmt.Sprintf("asked by task %s of alloc %s", r.Task.Task, r.Task.AllocID)
	if r.Reason != "" {
		message += ": " + r.Reason
	}
	resp, _, err := s.nomad.Jobs().ScaleWithRequest(r.Task.Job, &api.ScalingRequest{
		Count:          &count,
		Target:         map[string]string{"Namespace": r.Task.Namespace, "Job": r.Task.Job, "Group": r.Task.Group},
		Message:        message,
		JobModifyIndex: *job.JobModifyIndex,
	}, (&api.WriteOptions{Namespace: r.Task.Namespace}).WithContext(ctx))
	if err != nil {
		return nil, r.explain(ctx, doingWrite, err)
	}
	return resp, nil
}

// overwritten returns how much was added to the count previous before the write
// that Nomad gave the index written. Nomad compares the job's index when it gets
// a request and not when it commits it, so several requests in the same moment
// can pass. The error says that this cannot be told.
func (s *Scaler) overwritten(ctx context.Context, r ScaleRequest, previous int64, written uint64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, nomadLimit)
	defer cancel()
	const doing = "see whether another change was overwritten"
	versions, _, _, err := s.nomad.Jobs().VersionsOpts(r.Task.Job, nil, (&api.QueryOptions{Namespace: r.Task.Namespace}).WithContext(ctx))
	if err != nil {
		return 0, httpapi.Errorf(http.StatusBadGateway, "", "%s: %v; %w", doing, err, ErrUnknown)
	}
	// The newest first: the one after ours is the one that we have changed.
	for i, v := range versions {
		if value(v.JobModifyIndex) != written {
			continue
		}
		if i+1 == len(versions) || value(versions[i+1].Version)+1 != value(v.Version) {
			break
		}
		for _, g := range versions[i+1].TaskGroups {
			if value(g.Name) == r.Task.Group && g.Count != nil {
				return int64(*g.Count) - previous, nil
			}
		}
		return 0, nil // the group is new
	}
	return 0, httpapi.Errorf(http.StatusBadGateway, "", "%s: the job has been changed so often since that Nomad has forgotten; %w", doing, ErrUnknown)
}

// What is done at Nomad, for errors.
const (
	doingRead  = "read the job"
	doingWrite = "scale the job"
)

// explain makes an *httpapi.Error of what has come of asking Nomad.
func (r ScaleRequest) explain(ctx context.Context, doing string, err error) error {
	var answer api.UnexpectedResponseError
	if !errors.As(err, &answer) {
		code, why := http.StatusBadGateway, err
		if ctx.Err() != nil {
			code, why = http.StatusGatewayTimeout, ctx.Err()
		}
		if doing == doingWrite {
			return httpapi.Errorf(code, "", "%s: no answer of Nomad (%v); %w", doing, why, ErrUnknown)
		}
		return httpapi.Errorf(code, "", "%s: no answer of Nomad: %w", doing, why)
	}
	says := answer.Body()
	has := func(text string) bool { return strings.Contains(says, text) }
	switch code := answer.StatusCode(); {
	case has(saysDeployment):
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "Nomad lets no group of job %q be scaled while its deployment runs: %w", r.Task.Job, ErrBlocked).After(retryLater)
	case has(saysConflict):
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "%s: %w", doing, ErrConflict).After(time.Second)
	case has(saysDisabled):
		return httpapi.Errorf(http.StatusForbidden, "", "the operator has turned off scaling for tokens that are not management tokens (reject_job_registration): %w", ErrDenied)
	case code == http.StatusForbidden, has(saysDenied), has(saysNoToken):
		return httpapi.Errorf(http.StatusForbidden, "", "%s: Nomad refuses the token of the plugin: %w. "+
			"It needs a policy with namespace %q { capabilities = [\"read-job\", \"scale-job\"] }; "+
			"create it with \"nomad acl policy apply\", a token of it with \"nomad acl token create -policy=…\", and name its file in lifecycle { nomad { token_file = … } }",
			doing, ErrDenied, r.Task.Namespace)
	case code == http.StatusNotFound:
		return httpapi.Errorf(http.StatusConflict, "", "Nomad does not know job %q in namespace %q any more: %w", r.Task.Job, r.Task.Namespace, ErrUnscalable)
	case has(saysAbovePol), has(saysBelowPol), has(saysMaxCount):
		return httpapi.Errorf(http.StatusConflict, "delta", "%s: %w", says, ErrBounds)
	case has(saysNoLeader), code == http.StatusTooManyRequests:
		return httpapi.Errorf(http.StatusServiceUnavailable, "", "%s: %w", doing, err).After(retryLater)
	case doing == doingWrite && code >= http.StatusInternalServerError: // perhaps the leader was lost while it committed
		return httpapi.Errorf(http.StatusBadGateway, "", "%s: %v; %w", doing, err, ErrUnknown)
	default:
		return httpapi.Errorf(http.StatusBadGateway, "", "%s: %w", doing, err)
	}
}
