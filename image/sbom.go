package image

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// SPDX 2.3, https://spdx.github.io/spdx-spec/v2.3/, as far as a list of
// packages needs it.
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string            `json:"SPDXID"`
	Name      string            `json:"name"`
	Version   string            `json:"versionInfo,omitempty"`
	Download  string            `json:"downloadLocation"`
	Analyzed  bool              `json:"filesAnalyzed"`
	Concluded string            `json:"licenseConcluded"`
	Declared  string            `json:"licenseDeclared"`
	Copyright string            `json:"copyrightText"`
	Refs      []spdxExternalRef `json:"externalRefs,omitempty"`
}

type spdxExternalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// sbom lists what is in the image. Packages are named by their purl,
// https://github.com/package-url/purl-spec.
func sbom(m Manifest) spdxDocument {
	doc := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT",
		Name:      "plasmid-node-" + m.ID,
		Namespace: "urn:plasmid:image:" + m.ID,
		Creation:  spdxCreation{m.Created.UTC().Format(time.RFC3339), []string{"Tool: plasmid image build"}},
	}
	add := func(id, name, version, purl string) {
		p := spdxPackage{ID: "SPDXRef-" + id, Name: name, Version: version, Download: noAssertion, Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion}
		if purl != "" {
			p.Refs = []spdxExternalRef{{"PACKAGE-MANAGER", "purl", purl}}
		}
		doc.Packages = append(doc.Packages, p)
	}
	add("image", doc.Name, m.ID, "")
	doc.Relationships = append(doc.Relationships, spdxRelationship{doc.ID, "DESCRIBES", "SPDXRef-image"})
	for _, p := range m.Packages {
		id := "deb-" + strings.Map(spdxRune, p.Name) + "-" + p.Arch
		add(id, p.Name, p.Version, fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Name, url.QueryEscape(p.Version), p.Arch))
		doc.Relationships = append(doc.Relationships, spdxRelationship{"SPDXRef-image", "CONTAINS", "SPDXRef-" + id})
	}
	return doc
}

// spdxRune keeps what an SPDXID may hold: letters, digits, . and -.
func spdxRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
		return r
	}
	return '-'
}
