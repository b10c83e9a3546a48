"""A shop with users of its own, and an agent in it that knows each user's orders."""

import os
import sqlite3
from pathlib import Path

from flask import Flask, Request, current_app, g, redirect, render_template, request, session
from openclaw_gateway import Caller, Gateway, ToolContext, ToolError
from werkzeug.security import check_password_hash, generate_password_hash

gateway = Gateway()


def database():
    if "database" not in g:
        g.database = sqlite3.connect(current_app.config["DATABASE"])
        g.database.row_factory = sqlite3.Row
    return g.database


@gateway.tool
def order_status(context: ToolContext, number: int) -> dict:
    """Tell how far an order of the user is."""
    found = database().execute(
        "SELECT number, item, status FROM orders WHERE number = ? AND customer = ?", (number, context.caller)
    )
    if (order := found.fetchone()) is None:
        raise ToolError(f"The user has no order {number}.")
    return dict(order)


def who_asks(asked: Request) -> Caller | None:
    """Whoever is logged in talks to the agent as themselves, and sees no conversation but their own."""
    return Caller(session["user"]) if "user" in session else None


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
    app.config["DATABASE"] = os.environ.get("SHOP_DATABASE", str(Path(app.root_path) / "shop.db"))
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    app.teardown_appcontext(close_database)
    app.add_url_rule("/", "page", page)
    app.add_url_rule("/login", "login", login, methods=["POST"])
    with app.app_context():
        fill_database()
    gateway.init_app(
        app, config=Path(app.root_path) / "openclaw.json", url_prefix="/ai", authenticate=who_asks
    )
    return app


def page():
    return render_template("chat.html", user=session.get("user"))


def login():
    name, password = request.form["name"], request.form["password"]
    user = database().execute("SELECT secret FROM users WHERE name = ?", (name,)).fetchone()
    if user is None or not check_password_hash(user["secret"], password):
        return "Wrong name or password.", 401
    session["user"] = name
    return redirect("/")


def close_database(error):
    if "database" in g:
        g.pop("database").close()


def fill_database():
    db = database()
    db.executescript(
        "CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, secret TEXT);"
        "CREATE TABLE IF NOT EXISTS orders"
        " (number INTEGER PRIMARY KEY, customer TEXT, item TEXT, status TEXT)"
    )
    for name in ("ann", "bob"):
        db.execute(
            "INSERT OR IGNORE INTO users VALUES (?, ?)", (name, generate_password_hash(f"{name}-secret"))
        )
    orders = [(7, "ann", "a kettle", "on its way"), (8, "bob", "a lamp", "being packed")]
    db.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?)", orders)
    db.commit()
