// Package debian fetches Debian packages without installing them: through the
// machine's own apt sources, or through the same sources with the suite's name
// changed, into a private directory. Nothing on the machine is changed and no
// mirror is named here.
//
// What apt needs to work privately: its own lists, archives and caches, an
// empty dpkg status (so that what happens to be installed does not decide what
// is fetched) and, for another suite, its own sources. Keys, proxies and the
// rest of apt's configuration stay the machine's.
package debian
