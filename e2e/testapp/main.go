// Command testapp is the application that the end-to-end tests run under the
// lifecycle drivers. It writes down what happens to it, one line each, so that
// a test can read the order: "started", "http /path event", "signal terminated".
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	listen := flag.String("listen", "", "TCP address to serve on")
	socket := flag.String("socket", "", "unix socket to serve on")
	path := flag.String("journal", os.Getenv("NOMAD_ALLOC_DIR")+"/data/journal", "file to write events to")
	note := flag.String("note", "", "write this line to the journal and end with -exit")
	exit := flag.Int("exit", 0, "exit code after -note")
	readyAfter := flag.Duration("ready-after", 0, "time before /ready answers 200")
	dieAfter := flag.Duration("die-after", 0, "end with exit code 3 after this time")
	flag.Parse()

	j := &journal{path: *path}
	if *note != "" {
		// A command of a hook: it finds its event in a file.
		event, err := os.ReadFile(os.Getenv("LIFECYCLE_EVENT_FILE"))
		if err != nil {
			return err
		}
		var ev struct{ Event string }
		if err := json.Unmarshal(event, &ev); err != nil {
			return err
		}
		if err := j.add(*note + " " + ev.Event); err != nil {
			return err
		}
		fmt.Println("note:", *note)
		os.Exit(*exit)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	usr := make(chan os.Signal, 1)
	signal.Notify(usr, syscall.SIGUSR1)
	go func() {
		for range usr {
			if err := j.add("signal SIGUSR1"); err != nil {
				log.Print(err)
			}
		}
	}()
	if err := j.add("started"); err != nil {
		return err
	}
	fmt.Println("testapp started")
	if err := serve(j, *listen, *socket, time.Now().Add(*readyAfter)); err != nil {
		return err
	}
	if *dieAfter > 0 {
		time.AfterFunc(*dieAfter, func() { os.Exit(3) })
	}
	<-ctx.Done()
	fmt.Println("testapp stopping")
	return j.add("signal SIGTERM")
}

func serve(j *journal, listen, socket string, readyAt time.Time) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if time.Now().Before(readyAt) {
			http.Error(w, "warming up", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var ev struct{ Event string }
		if err := json.NewDecoder(r.Body).Decode(&ev); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := j.add("http " + r.URL.Path + " " + ev.Event); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	for network, addr := range map[string]string{"tcp": listen, "unix": socket} {
		if addr == "" {
			continue
		}
		if network == "unix" {
			if err := os.MkdirAll(filepath.Dir(addr), 0o755); err != nil {
				return err
			}
			_ = os.Remove(addr) // of an earlier start
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		go func() { log.Fatal(http.Serve(l, mux)) }()
	}
	return nil
}

type journal struct {
	mu   sync.Mutex
	path string
}

func (j *journal) add(line string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, err := os.OpenFile(j.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, line); err != nil {
		return err
	}
	return f.Close()
}
