package manage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/nomad-patterns/nomad-patterns/internal/httpapi"
)

// newMerged makes the API of all processes of the node. It has the paths of
// upward, whose answers it gathers or passes on.
func newMerged(s *server, p *peers) *server {
	m := &merged{s, p}
	s.Mux.HandleFunc("GET /v1/health", m.health)
	s.Mux.HandleFunc("GET /metrics", m.metrics)
	s.Mux.HandleFunc("GET /v1/tasks", m.list)
	s.Mux.HandleFunc("/v1/tasks/{alloc}/{task}", m.passOn)
	s.Mux.HandleFunc("/v1/tasks/{alloc}/{task}/{rest...}", m.passOn)
	return s
}

type merged struct {
	*server
	peers *peers
}

func (m *merged) list(w http.ResponseWriter, r *http.Request) {
	all, refusal := m.peers.tasks(r.Context())
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	httpapi.WriteJSON(w, http.StatusOK, all)
}

// health answers 503 if a process does not answer.
func (m *merged) health(w http.ResponseWriter, r *http.Request) {
	answers, err := m.peers.ask(r.Context(), "/v1/health", "")
	if err != nil {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusServiceUnavailable, "", "%w", err))
		return
	}
	h, code := health{Ready: true, Drivers: []reply{}}, http.StatusOK
	for _, a := range answers {
		one := reply{Driver: a.driver}
		if a.err != nil {
			one.Error, h.Ready, code = a.err.Error(), false, http.StatusServiceUnavailable
		}
		h.Drivers = append(h.Drivers, one)
	}
	httpapi.WriteJSON(w, code, h)
}

// passOn finds the process that has the task and passes the request on to it.
func (m *merged) passOn(w http.ResponseWriter, r *http.Request) {
	done, refusal := m.stream() // perhaps it is one, and the list must stay within reach
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	defer done()
	all, refusal := m.peers.tasks(r.Context())
	if refusal != nil {
		httpapi.WriteError(w, refusal)
		return
	}
	infos := make([]Info, len(all.Tasks))
	for i, t := range all.Tasks {
		infos[i] = t.Info
	}
	i, refusal := match(infos, r.PathValue("alloc"), r.PathValue("task"))
	if refusal != nil {
		httpapi.WriteError(w, orSilent(refusal, all.Drivers))
		return
	}
	target, err := withAlloc(r.URL, infos[i].AllocID)
	if err != nil {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusBadRequest, "", "the path is unreadable: %w", err))
		return
	}
	driver := all.Tasks[i].Driver
	transport := m.peers.transport(driver)
	defer transport.CloseIdleConnections()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = target
			p.Out.Host = "localhost"
			p.Out.Header.Del("Authorization") // it is for this endpoint
		},
		Transport:     transport,
		FlushInterval: -1, // streams
		ErrorLog:      m.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			httpapi.WriteError(w, httpapi.Errorf(http.StatusBadGateway, "", "ask the process of %s: %w", driver, err))
		},
	}
	proxy.ServeHTTP(w, r)
}

// orSilent says of a task that was not found which processes have not answered:
// they may have it.
func orSilent(refusal *httpapi.Error, drivers []reply) *httpapi.Error {
	if refusal.Status != http.StatusNotFound {
		return refusal
	}
	var silent []string
	for _, d := range drivers {
		if d.Error != "" {
			silent = append(silent, d.Driver+" ("+d.Error+")")
		}
	}
	if len(silent) == 0 {
		return refusal
	}
	return httpapi.Errorf(http.StatusBadGateway, "", "%s, as far as known: no answer from %s", refusal.Message, strings.Join(silent, ", "))
}

// withAlloc is the URL of a task at its process: the whole ID of its
// allocation, and the rest as it was asked for.
func withAlloc(u *url.URL, alloc string) (*url.URL, error) {
	parts := strings.SplitN(u.EscapedPath(), "/", 5) // "", v1, tasks, alloc, task and what follows
	if len(parts) != 5 {
		return nil, errors.New("no task in it")
	}
	parts[3] = url.PathEscape(alloc)
	to, err := url.Parse("http://localhost" + strings.Join(parts, "/"))
	if err != nil {
		return nil, err
	}
	to.RawQuery = u.RawQuery
	return to, nil
}

// upName is the one metric that merging adds.
const upName = "nomad_lifecycle_endpoint_up"

// metrics answers with the metrics of all processes, in Prometheus' text form.
func (m *merged) metrics(w http.ResponseWriter, r *http.Request) {
	answers, err := m.peers.ask(r.Context(), "/metrics", delimited())
	if err != nil {
		httpapi.WriteError(w, httpapi.Errorf(http.StatusInternalServerError, "", "%w", err))
		return
	}
	families := make(map[string]*dto.MetricFamily)
	up := &dto.MetricFamily{Name: proto.String(upName), Help: proto.String("Whether the plugin process of a driver has answered."), Type: dto.MetricType_GAUGE.Enum()}
	for _, a := range answers {
		if a.err == nil {
			a.err = mergeMetrics(families, a.driver, a.body)
		}
		value := 1.0
		if a.err != nil {
			value = 0
			m.Log.Warn("metrics of a process left out", "driver", a.driver, "error", a.err)
		}
		up.Metric = append(up.Metric, &dto.Metric{Label: driverLabel(nil, a.driver), Gauge: &dto.Gauge{Value: &value}})
	}
	if len(up.Metric) > 0 {
		families[upName] = up
	}
	var body bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	encoder := expfmt.NewEncoder(&body, format)
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if err := encoder.Encode(families[name]); err != nil {
			httpapi.WriteError(w, httpapi.Errorf(http.StatusInternalServerError, "", "write metrics: %w", err))
			return
		}
	}
	w.Header().Set("Content-Type", string(format))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body.Bytes()) // it fails only when nobody is left to be told
}

// delimited is the form of metrics between the processes: it keeps everything,
// and, unlike that of the text, its parser takes whatever comes.
func delimited() string { return string(expfmt.NewFormat(expfmt.TypeProtoDelim)) }

// mergeMetrics adds what a process has answered, with a label for its driver,
// whole or not at all.
func mergeMetrics(into map[string]*dto.MetricFamily, driver string, body []byte) error {
	families := make(map[string]*dto.MetricFamily)
	for r := bytes.NewReader(body); ; {
		f := new(dto.MetricFamily)
		err := protodelim.UnmarshalOptions{MaxSize: maxListing}.UnmarshalFrom(r, f)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			_, err = expfmt.MetricFamilyToText(io.Discard, f) // it checks
		}
		if err != nil {
			return fmt.Errorf("parse metrics: %w", err)
		}
		families[f.GetName()] = f
	}
	for name, f := range families {
		if have, ok := into[name]; ok && have.GetType() != f.GetType() {
			return fmt.Errorf("metric %s has type %s, and elsewhere %s; are the processes of one version?", name, f.GetType(), have.GetType())
		}
	}
	for name, f := range families {
		for _, metric := range f.Metric {
			metric.Label = driverLabel(metric.Label, driver)
		}
		if have, ok := into[name]; ok {
			have.Metric = append(have.Metric, f.Metric...)
		} else {
			into[name] = f
		}
	}
	return nil
}

// driverLabel adds the label, unless the metric has one of its own.
func driverLabel(labels []*dto.LabelPair, driver string) []*dto.LabelPair {
	const name = "driver"
	if slices.ContainsFunc(labels, func(l *dto.LabelPair) bool { return l.GetName() == name }) {
		return labels
	}
	return append(labels, &dto.LabelPair{Name: proto.String(name), Value: proto.String(driver)})
}
