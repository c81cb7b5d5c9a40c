package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// Paths below the lab's address are those below the host's mirror.
func TestMirrorHandler(t *testing.T) {
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host+r.URL.Path) }))
	defer outside.Close()
	for _, path := range []string{"/debian", "/mirrors/debian/"} {
		from, err := url.Parse(outside.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		at, err := url.Parse(mirrorURL)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		mirrorHandler(at, from).ServeHTTP(w, httptest.NewRequest("GET", mirrorURL+"/pool/main/a/a_1%2b1.deb", nil))
		want := from.Host + map[string]string{"/debian": "/debian", "/mirrors/debian/": "/mirrors/debian"}[path] + "/pool/main/a/a_1+1.deb"
		if got := w.Body.String(); got != want {
			t.Errorf("%s: asked for %s, want %s", path, got, want)
		}
	}
}
