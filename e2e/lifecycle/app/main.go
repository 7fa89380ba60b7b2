// Command app is the application that the lifecycle tests evict: a counter whose
// clients notice if an update that was acknowledged is lost. It tells a journal
// of every hook, so that a test can read what the plugin has said, and when.
//
// An update has a number, one above that of the update before. Which updates a
// process has is therefore one number, and a client that is told a lower one than
// it has an acknowledgement for has lost the difference.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/e2e/lifecycle/journal"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	a := &app{}
	flag.StringVar(&a.journal, "journal", "", "URL of the collector of the journal")
	flag.BoolVar(&a.sync, "sync", false, "acknowledge an update when it is in a checkpoint; else at once")
	flag.BoolVar(&a.byFile, "restore-file", false, "read the checkpoint from its file at the start; else it comes over HTTP")
	ballast := flag.Int("ballast", 0, "bytes of incompressible state besides the number")
	flag.StringVar(&a.fault, "fault", "", "when asked for the state: never answer, be slow, fail, or cut the answer short")
	listen := flag.String("listen", "127.0.0.1:0", "TCP address for clients")
	exitAfter := flag.Duration("exit-after", 0, "end by itself after this time")
	exitCode := flag.Int("exit-code", 0, "of the end by itself")
	deaf := flag.Bool("deaf", false, "do not end when asked to")
	note := flag.String("note", "", "tell the journal of a hook with this name, as its command, and end")
	saveFile := flag.Bool("save-file", false, "as the command of a save: fetch the state and write it to the file")
	flag.Parse()
	if *note != "" {
		return a.command(*note)
	}
	if *saveFile {
		return saveToFile()
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := a.begin(*ballast); err != nil {
		return err
	}
	if err := a.serve(*listen); err != nil {
		return err
	}
	if err := a.tell(journal.Entry{What: journal.Started, Addr: a.addr, Value: a.value()}); err != nil {
		return err
	}
	if os.Getenv("LIFECYCLE_SOCKET") != "" {
		go a.follow(ctx)
	}
	if *exitAfter > 0 {
		time.AfterFunc(*exitAfter, func() { os.Exit(*exitCode) })
	}
	<-ctx.Done()
	err := a.tell(journal.Entry{What: journal.Signal, Value: a.value()})
	if *deaf {
		select {}
	}
	return err
}

// tell adds what every entry says.
func (a *app) tell(e journal.Entry) error {
	if a.journal == "" {
		return nil
	}
	env := os.Getenv
	e.At, e.PID = time.Now(), os.Getpid()
	e.Job, e.Group, e.Task = env("NOMAD_JOB_ID"), env("NOMAD_GROUP_NAME"), env("NOMAD_TASK_NAME")
	e.Alloc, e.Index = env("NOMAD_ALLOC_ID"), env("NOMAD_ALLOC_INDEX")
	return journal.Send(context.Background(), a.journal, e)
}

// socket is where hooks of the task reach it.
func socket() string { return filepath.Join(os.Getenv("NOMAD_TASK_DIR"), "app.sock") }

func (a *app) serve(listen string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /inc", a.increment)
	mux.HandleFunc("GET /value", a.get)
	mux.HandleFunc("POST /state", a.save)
	mux.HandleFunc("PUT /state", a.restore)
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("healthy\n")) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("app_updates 1\n")) })
	mux.HandleFunc("POST /hook/{name}", a.hook)
	mux.HandleFunc("POST /hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_ = os.Remove(socket()) // of an earlier start
	for _, at := range [][2]string{{"tcp", listen}, {"unix", socket()}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			return err
		}
		if at[0] == "tcp" {
			a.addr = l.Addr().String()
		}
		go func() { log.Fatal(http.Serve(l, mux)) }()
	}
	return nil
}

// control is a client of the management socket.
func control() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", os.Getenv("LIFECYCLE_SOCKET"))
	}}}
}

// follow tells the journal of every event of the management socket. When the
// plugin is started anew it connects again.
func (a *app) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.followOnce(ctx); err != nil && ctx.Err() == nil {
			log.Print("follow events: ", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (a *app) followOnce(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://plugin/v1/events", nil)
	if err != nil {
		return err
	}
	resp, err := control().Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	name := ""
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		switch key, value, _ := strings.Cut(lines.Text(), ": "); key {
		case "event":
			name = value
		case "data":
			if err := a.tell(journal.Entry{What: journal.Status, Name: name, Told: told([]byte(value))}); err != nil {
				return err
			}
		}
	}
	return errors.Join(lines.Err(), errors.New("the stream has ended"))
}
