// Command standin does what critest looks for in the servers and tools that the
// images it asks for have:
//
//	standin httpd PORT    a web server that says so in its log
//	standin nginx PORT    the same, which is called "nginx: master process" and
//	                      writes its process id to /var/run/nginx.pid
//	standin nonewprivs    prints its effective user id; installed setuid root
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
)

const master = "nginx: master process"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "nonewprivs":
		_, err := fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return err
	case len(args) == 2 && args[0] == "httpd":
		return serve(args[0], args[1])
	case len(args) == 2 && args[0] == "nginx":
		if !strings.HasPrefix(os.Args[0], master) {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return syscall.Exec(self, append([]string{master}, args...), os.Environ())
		}
		if err := os.WriteFile("/var/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			return err
		}
		return serve(args[0], args[1])
	}
	return fmt.Errorf("usage: standin httpd PORT | nginx PORT | nonewprivs; got %q", args)
}

func serve(name, port string) error {
	fmt.Printf("%s: listening on port %s\n", name, port)
	return http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "It works!\n")
	}))
}
