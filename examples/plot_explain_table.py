"""
Which sensor, and what it should have been
==========================================

A pump reports seven sensors and the fluid that it moves. In three alarms every value is
within the range of the healthy pump; what is wrong is how the values go together.
``explain`` says which column an alarm is about, in the columns of the data frame, although
the detector sees standardised and one-hot encoded ones. Healthy rows that are alike in the
other columns say what that column should have been.

Run it with ``python examples/plot_explain_table.py``; it takes a few seconds.
"""

# %%
# The healthy pump: speed sets flow, pressure and vibration; flow, pressure and the fluid
# set the current; the room and the current set the temperature of the bearing.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skad import KDE, explain
from skad.plotting import ExplanationDisplay


def run_pump(n, seed):
    """Draw n rows of a healthy pump."""
    rng = np.random.default_rng(seed)
    speed, room = rng.uniform(0.55, 1, n), rng.normal(20, 4, n)
    brine = rng.random(n) < 0.4

    def noisy(value, share):
        return value * (1 + share * rng.standard_normal(n))

    flow, pressure = noisy(120 * speed, 0.02), noisy(8 * speed**2, 0.02)
    current = noisy(5 + 0.03 * flow * pressure * np.where(brine, 1.3, 1), 0.03)
    return pd.DataFrame(
        {
            "speed (rpm)": 2900 * speed,
            "flow (m³/h)": flow,
            "pressure (bar)": pressure,
            "current (A)": current,
            "room (°C)": room,
            "bearing (°C)": room + noisy(15 + 0.6 * current, 0.03),
            "vibration (mm/s)": noisy(0.8 + 2 * speed**2, 0.05),
            "fluid": np.where(brine, "brine", "water"),
        }
    )


healthy, fresh = run_pump(2000, seed=0), run_pump(2000, seed=1)
numbers = [name for name in healthy if name != "fluid"]

# %%
# The detector is the last step of a pipeline; 1 % of the rows of a healthy pump shall be
# alarms.


def encoder(numbers):
    """Standardise the numbers and encode the fluid."""
    fluid = OneHotEncoder(sparse_output=False)
    return make_column_transformer((StandardScaler(), numbers), (fluid, ["fluid"]))


model = make_pipeline(encoder(numbers), KDE(false_alarm_rate=0.01)).fit(healthy)
print(f"false alarms: {(model.predict(fresh) == -1).mean():.1%}")

# %%
# Three faults, each in one column, planted in many rows of the healthy pump; rows that
# leave the range of the column are left out. In most alarms the column with the most
# relevance is the one at fault.
faults = {
    "flow meter reads 15 % low": ("flow (m³/h)", lambda row: 0.85 * row),
    "bearing runs 8 °C hot": ("bearing (°C)", lambda row: row + 8),
    "motor draws 30 % more": ("current (A)", lambda row: 1.3 * row),
}
examples = {}
for name, (column, change) in faults.items():
    rows = run_pump(1000, seed=2)
    rows[column] = change(rows[column])
    rows = rows[rows[column].between(healthy[column].min(), healthy[column].max())]
    alarms = rows[model.predict(rows) == -1]
    blamed = rows.columns[explain(model, alarms).argmax(axis=1)]
    print(f"{name}: {len(alarms) / len(rows):.0%} found, {column} blamed in", end=" ")
    print(f"{(blamed == column).mean():.0%} of them")
    examples[name] = alarms.iloc[0]

# %%
# What should it have been? The mean over the 20 healthy rows that are nearest in the other
# columns.


def expected(column, rows):
    """Tell a column of the rows by the others."""
    others = encoder([name for name in numbers if name != column])
    neighbors = make_pipeline(others, KNeighborsRegressor(20))
    return neighbors.fit(healthy, healthy[column]).predict(rows)


# %%
# One alarm of each kind. On the left its bars; on the right the column that is blamed, as
# measured and as it should have been. The dots are rows of the healthy pump. Of the hot
# bearing, the room gets nearly as much: in a hotter room the bearing would be normal.
alarms = pd.DataFrame(examples).T.astype(healthy.dtypes)
figure = plt.figure(figsize=(10, 7.5), layout="constrained")
figure.get_layout_engine().set(h_pad=0.1)
left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
ExplanationDisplay.from_estimator(model, alarms, figure=left)
blamed = alarms.columns[explain(model, alarms).argmax(axis=1)]
for i, (ax, column) in enumerate(zip(right.subplots(3), blamed, strict=True)):
    measured, should = alarms[column].iloc[i], expected(column, alarms)[i]
    ax.plot(expected(column, fresh), fresh[column], ".", color="0.7", markersize=2)
    ax.annotate("", (should, should), (should, measured), arrowprops={"arrowstyle": "->"})
    ax.plot(should, measured, "o", color="#D55E00")
    title = f"{column}: {measured:.0f}, should be {should:.0f}"
    ax.set_title(title, fontsize="medium", loc="left")
    ax.set(xlabel="expected from the other columns", ylabel="measured")
    print(f"{alarms.index[i]}: {title}")
