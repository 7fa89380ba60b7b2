package fence_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/shoenig/test/must"

	"github.com/nomad-patterns/nomad-patterns/election/fence"
)

func TestGuard(t *testing.T) {
	g := fence.New(5)
	writes := 0
	write := func() error { writes++; return nil }
	must.ErrorIs(t, g.Do(4, write), fence.ErrStale)
	must.Zero(t, writes)
	must.NoError(t, g.Do(5, write)) // the same leader again
	must.NoError(t, g.Do(9, write))
	must.ErrorIs(t, g.Do(8, write), fence.ErrStale)
	must.Eq(t, 2, writes)
	must.Eq(t, 9, g.Highest())

	failed := errors.New("disk is full")
	must.ErrorIs(t, g.Do(11, func() error { return failed }), failed)
	must.ErrorIs(t, g.Do(10, write), fence.ErrStale)
}

func TestHandler(t *testing.T) {
	g := fence.New(0)
	served := 0
	h := g.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		served++
		w.WriteHeader(http.StatusNoContent)
	}))
	cases := []struct {
		name, token string
		status      int
	}{
		{"first", "7", http.StatusNoContent},
		{"again", "7", http.StatusNoContent},
		{"stale", "6", http.StatusConflict},
		{"none", "", http.StatusBadRequest},
		{"not a number", "seven", http.StatusBadRequest},
		{"negative", "-1", http.StatusBadRequest},
		{"next leader", "8", http.StatusNoContent},
	}
	for _, tc := range cases {
		r := httptest.NewRequest(http.MethodPut, "/", nil)
		if tc.token != "" {
			r.Header.Set(fence.Header, tc.token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		must.Eq(t, tc.status, w.Code, must.Sprint(tc.name))
	}
	must.Eq(t, 3, served)
}
