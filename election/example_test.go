package election_test

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nomad-patterns/nomad-patterns/election"
	"github.com/nomad-patterns/nomad-patterns/election/fence"
)

// One of all processes that run this sends the mails. Each request to the mail service
// has the fencing token, so that the service can refuse a leader of the past.
func ExampleElector() {
	elector, err := election.New(election.Config{Prefix: "mail", Address: "10.0.0.1:8080"})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := elector.Close(ctx); err != nil {
			log.Print(err) // others lead when Consul has given this process up
		}
	}()
	sender, err := elector.Join("sender", election.Options{})
	if err != nil {
		log.Print(err)
		return
	}
	err = sender.Run(ctx, func(ctx context.Context, l *election.Leadership) error {
		log.Printf("sending mails in term %d", l.Term())
		for {
			if err := sendMail(ctx, l.Token()); err != nil {
				return err
			}
			select {
			case <-time.After(time.Second):
			case <-ctx.Done(): // not the leader any more, or told to stop
				return nil
			}
		}
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Print(err)
	}
}

// sendMail sends one mail in the name of a leader.
func sendMail(ctx context.Context, token uint64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mail.example/send", strings.NewReader("hello"))
	if err != nil {
		return err
	}
	req.Header.Set(fence.Header, strconv.FormatUint(token, 10))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
