// Package template is the confd engine: it renders files from the keys of a
// store, checks them, puts them in place and has their user reload them.
//
// The resources and the functions in templates are confd's. Where confd left a
// file in place whose reload had failed, never to try again, this engine puts
// the last good file back and tries again.
package template
