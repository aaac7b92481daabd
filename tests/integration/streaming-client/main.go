// A client of a CRI runtime's streaming URLs, as kubectl and crictl are one: client-go's own executors and port-forwarder.
// The tests run it as the judge of our server.
//
//	streaming-client exec [-transport spdy|websocket] [-protocols a,b] [-i] [-t] [-no-stdout] [-no-stderr] [-sizes N] URL
//	streaming-client forward [-transport spdy|websocket] URL [LOCAL]:REMOTE...
//
// exec copies its own standard streams and ends with the command's exit code; 250 stands for any other failure. With -sizes
// it sends so many terminal sizes, the last being 132x43. forward prints "Forwarding from ..." and ends with its standard
// input.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

const failed = 250

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("exec or forward"))
	}
	verbs := map[string]func([]string) error{"exec": exec, "forward": forward}
	verb, known := verbs[os.Args[1]]
	if !known {
		fail(fmt.Errorf("unknown verb %q", os.Args[1]))
	}
	if err := verb(os.Args[2:]); err != nil {
		var code utilexec.CodeExitError
		if errors.As(err, &code) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(code.Code)
		}
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "streaming-client:", err)
	os.Exit(failed)
}

var config = &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}

func exec(arguments []string) error {
	flags := flag.NewFlagSet("exec", flag.ExitOnError)
	transport := flags.String("transport", "spdy", "spdy or websocket")
	protocols := flags.String("protocols", "", "protocols to offer, best first; client-go's own without")
	stdin := flags.Bool("i", false, "send standard input")
	tty := flags.Bool("t", false, "a terminal")
	noStdout := flags.Bool("no-stdout", false, "no standard output")
	noStderr := flags.Bool("no-stderr", false, "no standard error")
	sizes := flags.Int("sizes", 0, "send so many sizes")
	_ = flags.Parse(arguments)
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		return err
	}
	executor, err := executorFor(*transport, target, *protocols)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if !*noStdout {
		options.Stdout = os.Stdout
	}
	if !*noStderr && !*tty {
		options.Stderr = os.Stderr
	}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if *sizes > 0 {
		options.TerminalSizeQueue = &queue{left: *sizes}
	}
	return executor.StreamWithContext(context.Background(), options)
}

func executorFor(transport string, target *url.URL, protocols string) (remotecommand.Executor, error) {
	offered := strings.FieldsFunc(protocols, func(r rune) bool { return r == ',' })
	switch transport {
	case "websocket":
		if len(offered) == 0 {
			return remotecommand.NewWebSocketExecutor(config, "GET", target.String())
		}
		return remotecommand.NewWebSocketExecutorForProtocols(config, "GET", target.String(), offered...)
	case "spdy":
		if len(offered) == 0 {
			return remotecommand.NewSPDYExecutor(config, "POST", target)
		}
		roundTripper, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutorForProtocols(roundTripper, upgrader, "POST", target, offered...)
	}
	return nil, fmt.Errorf("unknown transport %q", transport)
}

// queue gives sizes as fast as they are taken, and then none.
type queue struct{ left int }

func (q *queue) Next() *remotecommand.TerminalSize {
	switch {
	case q.left == 0:
		return nil
	case q.left == 1:
		q.left = 0
		return &remotecommand.TerminalSize{Width: 132, Height: 43}
	}
	q.left--
	return &remotecommand.TerminalSize{Width: uint16(20 + q.left%100), Height: uint16(10 + q.left%50)}
}

func forward(arguments []string) error {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	transport := flags.String("transport", "spdy", "spdy or websocket")
	_ = flags.Parse(arguments)
	target, err := url.Parse(flags.Arg(0))
	if err != nil {
		return err
	}
	dialer, err := dialerFor(*transport, target)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	addresses := []string{"127.0.0.1"}
	forwarder, err := portforward.NewOnAddressesForStreaming(
		dialer, addresses, flags.Args()[1:], stop, make(chan struct{}), os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}

func dialerFor(transport string, target *url.URL) (httpstream.Dialer, error) {
	switch transport {
	case "websocket":
		return portforward.NewSPDYOverWebsocketDialerForStreaming(target, config)
	case "spdy":
		roundTripper, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: roundTripper}, "POST", target), nil
	}
	return nil, fmt.Errorf("unknown transport %q", transport)
}
