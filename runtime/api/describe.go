package api

import (
	_ "embed"
	"net/http"
)

// openAPIDocument describes all routes, as OpenAPI 3.1.
//
//go:embed openapi.json
var openAPIDocument []byte

// discoveryDocument describes fleet's part as fleet did, in the format of
// Google's API discovery service, from which clients can be made.
//
//go:embed discovery.json
var discoveryDocument []byte

func (s *server) openAPI(w http.ResponseWriter, _ *http.Request) { serveDocument(w, openAPIDocument) }

func (s *server) fleetDiscovery(w http.ResponseWriter, _ *http.Request) {
	serveDocument(w, discoveryDocument)
}

func serveDocument(w http.ResponseWriter, doc []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(doc) // the client is gone if this fails
}
