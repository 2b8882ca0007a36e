package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// serves reports whether the server at an address gives out its busybox whole.
func serves(address string) bool {
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + address + "/bin/busybox")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	return err == nil && n > 1<<20
}

func TestNetworkBothWays(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "network")
	id := p.run(cluster.Container{Name: "main", Command: []string{"/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"}})
	ip, err := c.PodIP(t.Context(), p.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host reaches the pod", func() bool { return serves(net.JoinHostPort(ip, "8080")) })

	l, err := net.Listen("tcp", net.JoinHostPort(c.Gateway(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "hello %s\n", r.RemoteAddr)
	})}
	go server.Serve(l)
	defer server.Close()
	if out := p.exec(id, "wget", "-q", "-O", "-", "http://"+l.Addr().String()+"/"); !strings.HasPrefix(out, "hello "+ip+":") {
		t.Errorf("the pod, whose address is %s, reaches the host as: %s", ip, out)
	}
}

// kubectl port-forward ends in a dial of localhost in the pod's namespace.
func TestPortForward(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "forward")
	p.run(cluster.Container{Name: "main", Command: []string{"/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"}})
	ip, err := c.PodIP(t.Context(), p.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	// crictl ends at the first connection that is refused, so the server comes first.
	eventually(t, "the host reaches the pod", func() bool { return serves(net.JoinHostPort(ip, "8080")) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if out, err := c.Run(ctx, "crictl", "port-forward", p.sandbox, port+":8080"); ctx.Err() == nil {
			t.Errorf("crictl port-forward ended: %v: %s", err, out)
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	eventually(t, "the forwarded port answers", func() bool { return serves(net.JoinHostPort("127.0.0.1", port)) })

	other := strings.TrimSuffix(c.Gateway(), "1") + "250"
	pid, err := c.Shell(t.Context(), "crictl inspectp "+p.sandbox+" | jq -j .info.pid")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Shell(t.Context(), fmt.Sprintf("nsenter --net --target %s sh -c 'ip address flush dev eth0 && ip address add %s/24 dev eth0 && ip route add default via %s'", pid, other, c.Gateway())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the host reaches the pod at its new address", func() bool { return serves(net.JoinHostPort(other, "8080")) })
	if !serves(net.JoinHostPort("127.0.0.1", port)) {
		t.Error("the forwarded port did not follow the pod to its new address")
	}
}

func TestTwoPodsTalk(t *testing.T) {
	c := start(t)
	server, caller := runPod(t, c, "server"), runPod(t, c, "caller")
	server.run(cluster.Container{Name: "main", Command: []string{"/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/"}})
	id := caller.run(cluster.Container{Name: "main"})
	ip, err := c.PodIP(t.Context(), server.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a pod reaches the other", func() bool {
		out, err := c.Exec(t.Context(), id, "/bin/busybox", "sh", "-c", "busybox wget -q -O - http://"+ip+":8080/bin/busybox | busybox wc -c")
		n, _ := strconv.Atoi(strings.TrimSpace(out))
		return err == nil && n > 1<<20
	})
}

// What a second CNI plugin adds to a pod that runs reaches its guest.
func TestLinkAddedWhileThePodRuns(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "links")
	id := p.run(cluster.Container{Name: "main"})
	pid, err := c.Shell(t.Context(), "crictl inspectp "+p.sandbox+" | jq -j .info.pid") // the VMM's, which is in the pod's namespace
	if err != nil {
		t.Fatal(err)
	}
	far := "kl" + p.sandbox[:8]
	ip := func(args ...string) {
		t.Helper()
		if _, err := c.Run(t.Context(), append([]string{"ip"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	inPod := func(args ...string) {
		t.Helper()
		if _, err := c.Run(t.Context(), append([]string{"nsenter", "--net", "--target", pid, "ip"}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	ip("link", "add", far, "type", "veth", "peer", "name", "net1", "netns", pid)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", far).Run() })
	ip("address", "add", "198.51.100.1/24", "dev", far)
	ip("link", "set", far, "up")
	ip("address", "add", "2001:db8::1/64", "dev", far, "nodad")
	inPod("address", "add", "198.51.100.2/24", "dev", "net1")
	inPod("address", "add", "2001:db8::2/64", "dev", "net1", "nodad")
	inPod("link", "set", "net1", "up")
	for _, address := range []string{"198.51.100.1", "2001:db8::1"} {
		eventually(t, "the guest reaches the host at "+address, func() bool {
			_, err := c.Exec(t.Context(), id, "/bin/busybox", "ping", "-c", "1", "-W", "1", address)
			return err == nil
		})
	}
	ip("link", "del", far)
	eventually(t, "the guest has lost the link", func() bool {
		out, err := c.Exec(t.Context(), id, "/bin/busybox", "ip", "link")
		return err == nil && strings.Contains(out, "eth0") && !strings.Contains(out, "net1")
	})
	if out := p.exec(id, "ping", "-c", "1", c.Gateway()); !strings.Contains(out, "1 packets received") {
		t.Errorf("the pod's first link: %s", out)
	}
}
