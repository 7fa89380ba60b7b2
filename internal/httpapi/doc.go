// Package httpapi is how all HTTP APIs of this project answer: in JSON, errors
// included, and within limits of time and size.
//
//	mux.HandleFunc("PUT /v1/things/{name}", func(w http.ResponseWriter, r *http.Request) {
//		var in thing
//		if err := httpapi.ReadJSON(r.Body, &in); err != nil {
//			httpapi.WriteError(w, err)
//			return
//		}
//		httpapi.WriteJSON(w, http.StatusOK, in)
//	})
//	server.Handler = &httpapi.Handler{Mux: mux, Log: log, MaxBody: 1 << 20, Timeout: 10 * time.Second}
//
// Guaranteed by [Handler]: a request cannot hold a goroutine by sending its body or
// reading its answer slowly; a panic in a handler ends that request only, and a
// client does not take what it cut short for complete; answers that no handler of
// the mux gives are JSON as well.
//
// Not guaranteed: anything about the header of a request, the number of
// connections or how long a handler takes. The first two belong to the
// [http.Server] and its listener.
package httpapi
