"""Pairs of messages as customers write them: those of one question, and those that only look like it.

They were written by hand, half of them to be hard. A real stream has far more of the easy ones.
"""

from __future__ import annotations

from typing import Final

SAME: Final = (
    ("Where is my parcel?", "Where is my package?"),
    ("Where is my parcel?", "where is my parcel"),
    ("I forgot my password.", "I have forgotten my password"),
    ("How do I reset my password?", "How can I reset my password?"),
    ("How do I reset my password?", "Please tell me how I reset my password."),
    ("I want a refund.", "I would like a refund please"),
    ("I want to cancel my subscription.", "Please cancel my subscription"),
    ("The app crashes when I open it.", "The app crashes whenever I open it"),
    ("My card was charged twice.", "I was charged twice on my card."),
    ("Can I change my delivery address?", "Is it possible to change my delivery address?"),
    ("The invoice is wrong.", "There is a mistake in the invoice."),
    ("I cannot log in to my account.", "I can't log into my account"),
    ("Do you ship to Norway?", "do you ship to Norway"),
    ("What are your opening hours?", "When are you open?"),
    ("The screen is broken.", "The screen is cracked."),
    ("Please send me the invoice again.", "Could you send me the invoice again?"),
    ("My order has not arrived yet.", "My order still hasn't arrived"),
    ("Thank you, that solved my problem!", "Thanks, that solved my problem."),
    ("How long does delivery take?", "How long does the delivery take?"),
    ("I received the wrong item.", "The wrong item was delivered to me."),
    ("I received the wrong item.", "I got the wrong item"),
    ("How do I delete my account?", "How can I delete my account please?"),
    ("The discount code does not work.", "the discount code doesn't work"),
    ("Is there a student discount?", "Do you have a student discount?"),
    ("I want to speak to a human.", "I want to talk to a human"),
    ("My payment failed.", "The payment failed"),
    ("The package was damaged.", "The parcel was damaged"),
    ("Can I pay by invoice?", "Could I pay by invoice?"),
    ("Your website is very slow today.", "The website is really slow today"),
    ("Hello, I have a question about my bill.", "Hi, I have a question about my bill"),
    ("I moved to a new address.", "I have moved to a new address."),
    ("Someone used my card without permission.", "Somebody used my card without my permission"),
)
"""One answer does for both."""

OTHER: Final = {
    "negation": (
        ("I want a refund.", "I do not want a refund."),
        ("The payment went through.", "The payment did not go through."),
        ("I have received my parcel.", "I have never received my parcel."),
        ("The app works with my phone.", "The app doesn't work with my phone."),
        ("Please cancel my order.", "Please do not cancel my order."),
        ("I agree to the new terms.", "I cannot agree to the new terms."),
        ("I can log in.", "I can't log in."),
        ("Somebody answered my message.", "Nobody answered my message."),
        ("The box came with the charger.", "The box came without the charger."),
        ("Ich möchte mein Abo kündigen.", "Ich möchte mein Abo nicht kündigen."),
        ("Quiero cancelar mi pedido.", "No quiero cancelar mi pedido."),
        ("My account was hacked.", "My account was not hacked."),
    ),
    "number": (
        ("I was charged 20 euros too much.", "I was charged 200 euros too much."),
        ("My order is 4711.", "My order is 4712."),
        ("I ordered two shirts.", "I ordered three shirts."),
        ("Please refund $15.", "Please refund $50."),
        ("The parcel is three days late.", "The parcel is three weeks late."),
        ("Error 404 when I open the page.", "Error 500 when I open the page."),
        ("My flight leaves at 8:30.", "My flight leaves at 18:30."),
        ("Invoice INV-2024-001 is wrong.", "Invoice INV-2024-010 is wrong."),
        ("I am 17 years old, can I order?", "I am 18 years old, can I order?"),
        ("I paid €30.", "I paid £30."),
        ("The discount was 5 %.", "The discount was 50 %."),
        ("Deliver on 12 May please.", "Deliver on 21 May please."),
    ),
    "name": (
        ("Please send it to Anna Berg.", "Please send it to Anna Borg."),
        ("I want to fly from Paris to Rome.", "I want to fly from Rome to Paris."),
        ("Do you ship to Norway?", "Do you ship to Sweden?"),
        ("My iPhone does not charge.", "My Samsung does not charge."),
        ("I pay with Visa.", "I pay with Mastercard."),
        ("The app crashes on Windows.", "The app crashes on Linux."),
        ("Please call Mr. Miller.", "Please call Mr. Mueller."),
        ("do you ship to norway", "do you ship to denmark"),
        ("London office is closed.", "Dublin office is closed."),
        ("My flight to Oslo was cancelled.", "My flight to Lima was cancelled."),
        ("I bought it on Monday.", "I bought it on Tuesday."),
        ("Thomas took my money.", "Robert took my money."),
    ),
    "a word": (
        ("I want to open an account.", "I want to close an account."),
        ("The price went up.", "The price went down."),
        ("Please increase my limit.", "Please decrease my limit."),
        ("I want to buy this.", "I want to sell this."),
        ("My card was accepted.", "My card was declined."),
        ("The parcel came too early.", "The parcel came too late."),
        ("Turn on notifications.", "Turn off notifications."),
        ("Can I return it before it ships?", "Can I return it after it ships?"),
        ("The customer owes the shop money.", "The shop owes the customer money."),
        ("I want to cancel my order.", "I want to cancel my order and my account."),
        ("I love your service.", "I hate your service."),
        ("Please block my card, it was stolen.", "Please unblock my card, it was stolen."),
    ),
}
"""One answer would be wrong for one of the two, by what differs."""
