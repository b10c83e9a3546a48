"""A shop that was there before: its own package ``app``, users, database, errors, hooks and extensions."""

from __future__ import annotations

import os
from typing import Any

from flask import Blueprint, Flask, Request, abort, g, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask_cors import CORS
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_sqlalchemy import SQLAlchemy
from openclaw_gateway import Caller, Gateway, ToolContext, ToolError

db = SQLAlchemy()
gateway = Gateway()
torn_down: list[str] = []


class Customer(db.Model, UserMixin):  # type: ignore[name-defined, misc]
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String, unique=True)


class Parcel(db.Model):  # type: ignore[name-defined, misc]
    id = db.Column(db.Integer, primary_key=True)
    place = db.Column(db.String)


class ShopJson(DefaultJSONProvider):
    """The shop's JSON is its own matter."""

    mimetype = "application/vnd.shop+json"


@gateway.tool
def parcel(context: ToolContext, number: int) -> str:
    """Tell where a parcel is."""
    found = db.session.get(Parcel, number)
    if found is None:
        raise ToolError(f"There is no parcel {number}.")
    return f"{found.place}, says {context.caller}"


def who(asked: Request) -> Caller | None:
    if key := asked.headers.get("X-Api-Key"):
        name = key.removeprefix("key-of-")
        return Caller(name, scopes=frozenset({"operator.admin"})) if name == "root" else Caller(name)
    return Caller(current_user.name) if current_user.is_authenticated else None


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="of the shop",
        SQLALCHEMY_DATABASE_URI=os.environ["SHOP_DATABASE"],
        MAX_CONTENT_LENGTH=200,
        APPLICATION_ROOT="/shop",
    )
    app.json = ShopJson(app)
    db.init_app(app)
    CORS(app, origins=["https://shop.example"])
    limiter = Limiter(get_remote_address, app=app, storage_uri="memory://", default_limits=["5000/minute"])
    logins = LoginManager(app)
    logins.user_loader(lambda number: db.session.get(Customer, int(number)))
    logins.unauthorized_handler(lambda: ("please log in", 401))

    openai = Blueprint("openai", __name__, url_prefix="/openai")
    openai.add_url_rule("/", "index", lambda: "the shop's own idea of openai")
    app.register_blueprint(openai)

    @app.before_request
    def remember() -> None:
        g.path = request.path

    @app.after_request
    def sign(response: Any) -> Any:
        response.headers["X-Shop"] = g.path
        return response

    @app.teardown_appcontext
    def tear_down(error: BaseException | None) -> None:
        torn_down.append(str(error))

    @app.errorhandler(Exception)
    def sorry(error: Exception) -> tuple[str, int]:
        return f"<h1>sorry: {type(error).__name__}</h1>", getattr(error, "code", 500)

    @app.get("/")
    def index() -> str:
        return "welcome to the shop"

    @app.get("/json")
    def json() -> Any:
        return jsonify(word="loud")

    @app.get("/broken")
    def broken() -> str:
        abort(500)

    @app.get("/rare")
    @limiter.limit("1/day")
    def rare() -> str:
        return "once"

    @app.post("/login")
    def login() -> str:
        login_user(db.session.query(Customer).filter_by(name=request.form["name"]).one())
        return "hello"

    @app.get("/mine")
    @login_required
    def mine() -> str:
        return str(current_user.name)

    config = {
        "gateway": {"http": {"keepAliveSeconds": 1, "endpoints": {
            "chatCompletions": {"enabled": True}, "responses": {"enabled": True}}}},
        "models": {"providers": {"scripted": {"baseUrl": os.environ["SHOP_MODEL"], "models": [{"id": "m"}]}}},
    }  # fmt: skip
    gateway.init_app(app, config=config, url_prefix="/ai", authenticate=who)
    with app.app_context():
        db.create_all()
        for number, name in enumerate(("ann", "bob"), 1):
            db.session.merge(Customer(id=number, name=name))
        db.session.merge(Parcel(id=7, place="in Ulm"))
        db.session.commit()
    return app
