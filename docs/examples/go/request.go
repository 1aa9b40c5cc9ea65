// Asks for the deletion of a user's conversation groups and waits until each of them has an end.
//
//	go mod init request && go mod tidy
//	AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f go run . user15 test0 test1
//
// Exits with 0 if all groups are erased, else with 1.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	app     = "billing" // who asks: the last word of the answers' routing keys
	timeout = time.Minute
)

type outcome struct {
	Data struct {
		Request struct {
			ID string `json:"id"`
		} `json:"request"`
		Status    string `json:"status"`
		Groups    int    `json:"groups"`
		Remaining int    `json:"remaining"`
		Results   []struct {
			Index   int    `json:"index"`
			Outcome string `json:"outcome"`
		} `json:"results"`
	} `json:"data"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: request USER GROUP...")
		os.Exit(1)
	}
	status, err := run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(status)
	if status != "erased" {
		os.Exit(1)
	}
}

func run(user string, groups []string) (string, error) {
	url := os.Getenv("AMQP_URL")
	if url == "" {
		url = "amqp://guest:guest@127.0.0.1:5672/%2f"
	}
	connection, err := amqp.Dial(url)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()

	request := newID()
	// Bound before the request is published, so that no answer is missed. A service has one durable queue that
	// outlives it instead.
	answers, err := channel.QueueDeclare(app+".answers."+request, false, false, true, false, nil)
	if err != nil {
		return "", err
	}
	if err := channel.QueueBind(answers.Name, "*."+app, "convgroup.outcomes", false, nil); err != nil {
		return "", err
	}
	deliveries, err := channel.Consume(answers.Name, "", false, true, false, false, nil)
	if err != nil {
		return "", err
	}
	fmt.Println("request", request)
	if err := ask(ctx, channel, request, user, groups); err != nil {
		return "", err
	}
	return wait(ctx, deliveries, request)
}

// ask publishes a request. The broker's confirm says that it is kept, not that it is done.
func ask(ctx context.Context, channel *amqp.Channel, request, user string, groups []string) error {
	body, err := json.Marshal(map[string]any{"From_Account": user, "GroupName": groups})
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, "convgroup", "delete",
		true,  // mandatory
		false, // immediate
		amqp.Publishing{
			DeliveryMode: amqp.Persistent,
			ContentType:  "application/json",
			MessageId:    request,
			Timestamp:    time.Now(),
			AppId:        app,
			Body:         body,
		})
	if err != nil {
		return err
	}
	acked, err := confirm.WaitContext(ctx)
	if err != nil {
		return err
	}
	if !acked {
		return errors.New("the broker refused the request")
	}
	select { // a return comes before its confirm
	case back := <-returned:
		return fmt.Errorf("the request was returned: %s", back.ReplyText)
	default:
		return nil
	}
}

// wait takes answers from the queue until the request is closed or the time is over.
func wait(ctx context.Context, deliveries <-chan amqp.Delivery, request string) (string, error) {
	ends := map[int]string{} // how each group ended, by its place in GroupName
	for {
		select {
		case <-ctx.Done():
			return "open", nil
		case delivery, ok := <-deliveries:
			if !ok {
				return "", errors.New("the connection is closed")
			}
			var answer outcome
			if err := json.Unmarshal(delivery.Body, &answer); err != nil {
				return "", err
			}
			if err := delivery.Ack(false); err != nil {
				return "", err
			}
			data := answer.Data
			if data.Request.ID != request {
				continue // the queue gets the app's other answers, too
			}
			fmt.Printf("outcome: %s, %d remaining\n", data.Status, data.Remaining)
			if data.Status == "malformed" {
				return "malformed", nil
			}
			for _, result := range data.Results {
				if !isErased(ends[result.Index]) { // an answer can come twice
					ends[result.Index] = result.Outcome
				}
			}
			if len(ends) >= data.Groups {
				return sum(ends), nil
			}
		}
	}
}

// sum says how a request ended, from how its groups ended.
func sum(ends map[int]string) string {
	erased := 0
	for _, end := range ends {
		if isErased(end) {
			erased++
		}
	}
	switch erased {
	case len(ends):
		return "erased"
	case 0:
		return "failed"
	default:
		return "mixed"
	}
}

func isErased(end string) bool {
	return end == "deleted" || end == "gone"
}

func newID() string {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", id)
}
