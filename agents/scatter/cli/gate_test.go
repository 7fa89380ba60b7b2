package cli

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoenig/test/must"
)

func TestGate(t *testing.T) {
	// ask asks a handler behind the gate that takes a while.
	ask := func(g *gate, takes time.Duration) int {
		w := httptest.NewRecorder()
		g.pass(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(takes) })).
			ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Code
	}
	closing := func(g *gate, most time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), most)
		defer cancel()
		return g.close(ctx)
	}
	t.Run("nobody inside", func(t *testing.T) {
		var g gate
		must.Eq(t, http.StatusOK, ask(&g, 0))
		must.NoError(t, closing(&g, 0))
		must.Eq(t, http.StatusServiceUnavailable, ask(&g, 0))
	})
	t.Run("waits", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g gate
			for i := range 3 {
				go func() { must.Eq(t, http.StatusOK, ask(&g, time.Duration(i+1)*time.Second)) }()
			}
			synctest.Wait()
			begin := time.Now()
			must.NoError(t, closing(&g, time.Minute))
			must.Eq(t, 3*time.Second, time.Since(begin))
		})
	})
	t.Run("gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g gate
			go ask(&g, time.Minute)
			synctest.Wait()
			must.EqError(t, closing(&g, time.Second), "1 request under way: context deadline exceeded")
			time.Sleep(time.Hour) // it leaves later
		})
	})
	t.Run("a panic leaves", func(t *testing.T) {
		var g gate
		func() {
			defer func() { must.Eq(t, any(http.ErrAbortHandler), recover()) }()
			g.pass(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })).
				ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
		}()
		must.NoError(t, closing(&g, 0))
	})
}
